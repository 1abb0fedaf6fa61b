"""tmux's control mode as events: a parser of its lines and a client over one socket.

Source: tmux(1), CONTROL MODE. Pane output arrives as ``%output %PANE DATA`` with bytes below space and the
backslash as three octal digits; replies to commands arrive between ``%begin`` and ``%end`` or ``%error``, in
order.
"""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from collections.abc import Callable

Output = Callable[[str, bytes], None]


class TmuxError(Exception):
    """tmux refused a command, or is gone."""


def quoted(argument: str) -> str:
    """``argument`` as one word of tmux's command language."""
    return "'" + argument.replace("'", "'\\''") + "'"


class ControlClient(asyncio.Protocol):
    """The server's end of ``tmux -C``; calls ``on_output(pane, data)`` and ``on_close()``; notices are
    passed over.
    """

    def __init__(self, on_output: Output, on_close: Callable[[], None]) -> None:
        self.on_output, self.on_close = on_output, on_close
        self.rest = b""
        self.block: list[bytes] | None = None
        self.ours = False
        self.replies: deque[asyncio.Future[list[str]]] = deque()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        while self.replies:
            future = self.replies.popleft()
            if not future.done():
                future.set_exception(TmuxError("tmux is gone"))
        self.on_close()

    def data_received(self, data: bytes) -> None:
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        for line in lines:
            # Output is nearly all there is, and never comes inside a reply.
            if line.startswith(b"%output ") and self.block is None:
                _, pane, text = line.split(b" ", 2)
                self.on_output(pane.decode("ascii"), codecs.escape_decode(text)[0])
            else:
                self._line(line)

    def _line(self, line: bytes) -> None:
        name, _, rest = line.partition(b" ")
        if self.block is None:
            if name == b"%begin":
                self.block, self.ours = [], rest.endswith(b" 1")
        elif name in (b"%end", b"%error") and rest.count(b" ") == 2:
            block, self.block = [part.decode("utf-8", "replace") for part in self.block], None
            if self.ours and self.replies:
                self._settle(self.replies.popleft(), block, failed=name == b"%error")
        else:
            self.block.append(line)

    @staticmethod
    def _settle(future: asyncio.Future[list[str]], block: list[str], *, failed: bool) -> None:
        if future.done():
            return
        if failed:
            future.set_exception(TmuxError(" ".join(block) or "tmux refused a command"))
        else:
            future.set_result(block)

    async def command(self, *words: str) -> list[str]:
        """Run one tmux command; its output lines, or `TmuxError`."""
        if self.closed:
            raise TmuxError("tmux is gone")
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.replies.append(future)
        self.transport.write(" ".join(map(quoted, words)).encode("utf-8", "surrogatepass") + b"\n")
        return await future

"""The link to a Jupyter kernel: its wire protocol over ZeroMQ, on Unix sockets, read as messages come."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graftbox.server.identity import Identity
from graftbox.server.kernel.cell import Cell, Clear, Data, Ended, Event, Stream, Trouble

if TYPE_CHECKING:
    from jupyter_client.asynchronous.client import AsyncKernelClient

CWD = "graftbox_cwd"
"""Key of a request's metadata, where to change to, and of its reply's content, where the kernel is then."""
DELIMITER = b"<IDS|MSG>"
_LAST_WORDS = 0.1
_QUEUED = 16
"""Messages that ZeroMQ keeps for us; one may hold a megabyte."""
_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


class JupyterLink:
    """Sockets and connection file are ``base`` with suffixes; they belong to ``identity``."""

    def __init__(self, base: Path, identity: Identity) -> None:
        self.base = base
        self.file = base.with_name(f"{base.name}.json")
        self._info: dict[str, Any] = {
            "transport": "ipc",
            "ip": str(base),
            "key": secrets.token_hex(16),
            "signature_scheme": "hmac-sha256",
            **{name: number for number, name in enumerate(_PORTS, 1)},
        }
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as stream:  # noqa: PTH123 - of a file descriptor
            json.dump(self._info, stream)
            if identity.switched:
                os.fchown(descriptor, identity.uid, identity.gid)
        self._client: AsyncKernelClient | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._cells: dict[str, Cell] = {}
        self._replies: dict[str, Ended] = {}
        self._idle: set[str] = set()
        self._welcome = asyncio.Event()
        self._ready = asyncio.Event()

    @property
    def arguments(self) -> list[str]:
        return [str(self.file)]

    @property
    def files(self) -> list[int]:
        return []

    async def open(self) -> None:
        # Outside of the loop, for it takes a tenth of a second.
        await asyncio.to_thread(_import)
        import zmq.asyncio
        from jupyter_client.asynchronous.client import AsyncKernelClient

        context = zmq.asyncio.Context()
        # As a default of its sockets: a kernel that prints faster than we read has to wait.
        context.rcvhwm = _QUEUED
        self._client = client = AsyncKernelClient(context=context)
        client.load_connection_info(cast("Any", self._info))
        client.start_channels(shell=True, iopub=True, stdin=False, hb=False, control=False)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._listen()), loop.create_task(self._hear_replies())]
        # The kernel greets each subscriber: from then on nothing that it publishes is missed.
        await self._welcome.wait()
        client.kernel_info()
        await self._ready.wait()

    def send(self, cell: Cell, *, cwd: str | None = None, silent: bool = False) -> None:
        assert self._client is not None
        content = {
            "code": cell.code,
            "silent": silent,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self._client.session.msg("execute_request", content, metadata={CWD: cwd} if cwd else {})
        self._cells[message["header"]["msg_id"]] = cell
        self._client.shell_channel.send(message)

    async def drain(self) -> None:
        # ZeroMQ does not say when a connection has been read to its end.
        await asyncio.sleep(_LAST_WORDS)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._client is not None:
            self._client.stop_channels()
            self._client.context.destroy(linger=0)
        for path in self.base.parent.glob(f"{self.base.name}[-.]*"):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    async def _listen(self) -> None:
        """Take what the kernel publishes."""
        assert self._client is not None
        async for kind, parent, content in self._messages(self._client.iopub_channel):
            self._welcome.set()
            cell = self._cells.get(parent)
            if cell is None:
                continue
            if kind == "status":
                if content["execution_state"] == "idle":
                    self._idle.add(parent)
                    self._settle(parent)
            elif kind == "update_display_data":
                cell.update(Data(content["data"], display_id=_display_id(content)))
            elif (event := _event(kind, content)) is not None:
                cell.add(event)

    async def _hear_replies(self) -> None:
        assert self._client is not None
        async for kind, parent, content in self._messages(self._client.shell_channel):
            self._ready.set()
            if kind == "execute_reply" and parent in self._cells:
                self._replies[parent] = Ended(content["status"], content.get(CWD))
                self._settle(parent)

    async def _messages(self, channel: Any) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
        """Type, request and content of each message; the rest of them is not even decoded, which saves most
        of the time that jupyter_client would take.
        """
        sign = channel.session.sign
        while True:
            frames = await channel.socket.recv_multipart()
            start = frames.index(DELIMITER) + 1
            signed = frames[start + 1 : start + 5]
            if hmac.compare_digest(sign(signed), frames[start]):
                header, parent, content = (json.loads(signed[index]) for index in (0, 1, 3))
                yield header["msg_type"], parent.get("msg_id", ""), content

    def _settle(self, parent: str) -> None:
        """A cell is over once it has its reply and, on the other channel, all that was published for it."""
        if parent in self._replies and parent in self._idle:
            self._idle.discard(parent)
            self._cells.pop(parent).end(self._replies.pop(parent))


def _import() -> None:
    import jupyter_client.asynchronous.client  # noqa: F401 - only to have it loaded


def _display_id(content: dict[str, Any]) -> str | None:
    return (content.get("transient") or {}).get("display_id")


def _event(kind: str, content: dict[str, Any]) -> Event | None:
    match kind:
        case "stream":
            return Stream(content["name"], content["text"])
        case "execute_result" | "display_data":
            return Data(content["data"], kind == "execute_result", _display_id(content))
        case "error":
            return Trouble(content["ename"], content["evalue"], "\n".join(content["traceback"]))
        case "clear_output":
            return Clear(bool(content.get("wait")))
    return None

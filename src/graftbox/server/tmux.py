"""The private tmux server of one user: starting sessions in it, and pressing keys by name.

Every tmux session runs a keeper (keeper.py), which calls back on a socket beside tmux's own. tmux lives on
when this server is killed; the next one finds it and the keepers again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.server.environment import helper_environment
from graftbox.server.pane import HELLO_SECONDS, Listener, Pane, Program, connected, receive_hello

if TYPE_CHECKING:
    from graftbox.server.identity import Identity

COLUMNS, ROWS = 200, 50
INTRODUCTION_SECONDS = 5.0
_KEEPER = str(Path(__file__).with_name("keeper.py"))
_TOKEN = 32
_OPTIONS: tuple[tuple[str, ...], ...] = (
    ("set-option", "-g", "escape-time", "0"),
    ("set-option", "-g", "default-terminal", "screen"),
    ("set-option", "-g", "history-limit", "10000"),
    ("set-option", "-g", "status", "off"),
    ("set-option", "-g", "automatic-rename", "off"),
    ("set-option", "-g", "allow-rename", "off"),
)


class TmuxError(Exception):
    """tmux refused a command, or is gone."""


class Tmux:
    """tmux in the folder ``folder``, which belongs to ``identity``; starts with the first pane, and again
    when it was killed.
    """

    def __init__(self, binary: str, folder: Path, identity: Identity) -> None:
        self.binary = binary
        self.folder = folder
        self.identity = identity
        self.expected: dict[bytes, asyncio.Future[socket.socket]] = {}
        self.listening: socket.socket | None = None
        self.accepting: asyncio.Task[None] | None = None
        self.introducing: set[asyncio.Task[None]] = set()
        self.starting = asyncio.Lock()
        self.closed = False

    async def open(
        self,
        name: str,
        program: Program,
        nonce: str,
        socket_path: Path,
        log: tuple[int, int],
        listener: Listener,
    ) -> Pane:
        """A new tmux session running ``program``; raises `TmuxError` when it does not come up.

        ``socket_path``: where the next server will find the keeper; ``log``: descriptor and end.
        """
        if self.closed:
            raise TmuxError("the server is ending")
        self._listen()
        token = os.urandom(_TOKEN // 2).hex()
        called: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self.expected[token.encode()] = called
        keeper = (sys.executable, "-ISB", _KEEPER, str(self.folder / "keeper"), token)
        size = ("-x", str(program.columns), "-y", str(program.rows))
        try:
            # A server that is about to exit, for want of sessions, refuses; a second one then starts.
            for attempt in (1, 2, 3):
                try:
                    await self.command(*_START, ";", "new-session", "-d", "-s", name, *size, "--", *keeper)
                    break
                except TmuxError:
                    if attempt == 3:
                        raise
            async with asyncio.timeout(HELLO_SECONDS):
                connection = await called
            return await self._launch(connection, program, nonce, socket_path, log, listener)
        except (TimeoutError, OSError) as error:
            raise TmuxError(f"The shell's keeper did not start under tmux: {error}") from error
        finally:
            del self.expected[token.encode()]

    async def _launch(
        self,
        connection: socket.socket,
        program: Program,
        nonce: str,
        socket_path: Path,
        log: tuple[int, int],
        listener: Listener,
    ) -> Pane:
        try:
            with socket.socket(socket.AF_UNIX) as next_server:
                socket_path.unlink(missing_ok=True)
                next_server.bind(str(socket_path))
                next_server.listen(4)
                message = program.packed(nonce, log[1])
                sent = socket.send_fds(connection, [message[:8]], [log[0], next_server.fileno()])
                await asyncio.get_running_loop().sock_sendall(connection, message[sent:])
            hello = await receive_hello(connection)
        except BaseException:
            connection.close()
            raise
        os.close(hello.descriptor)
        return await connected(connection, hello, listener)

    def _listen(self) -> None:
        if self.listening is not None:
            return
        path = self.folder / "keeper"
        path.unlink(missing_ok=True)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.setblocking(False)
        self.listening.bind(str(path))
        # Which process is a keeper is told by its token.
        path.chmod(0o666)
        self.listening.listen(128)
        self.accepting = asyncio.get_running_loop().create_task(self._accept(self.listening))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(0.1)  # no descriptor is free
                continue
            task = loop.create_task(self._introduce(connection))
            self.introducing.add(task)
            task.add_done_callback(self.introducing.discard)

    async def _introduce(self, connection: socket.socket) -> None:
        """A keeper has called: hand it to whoever waits for its token."""
        connection.setblocking(False)
        words = b""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(INTRODUCTION_SECONDS):
                while len(words) <= _TOKEN and not words.endswith(b"\n"):
                    piece = await asyncio.get_running_loop().sock_recv(connection, _TOKEN + 1 - len(words))
                    if not piece:
                        break
                    words += piece
        called = self.expected.get(words.strip())
        if called is None or called.done():
            connection.close()
        else:
            called.set_result(connection)

    async def press(self, name: str, key: str) -> None:
        """Press one key by tmux's name for it, as ``Up``, in the session ``name``."""
        await self.command("send-keys", "-t", f"={name}:", "--", key)

    async def resize(self, name: str, columns: int, rows: int) -> None:
        await self.command("resize-window", "-t", f"={name}:", "-x", str(columns), "-y", str(rows))

    async def command(self, *words: str) -> None:
        """Run tmux with ``words``; raises `TmuxError` with what it says."""
        async with self.starting:
            process = await asyncio.create_subprocess_exec(
                *(self.binary, "-u", "-S", str(self.folder / "tmux"), "-f", "/dev/null", *words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=helper_environment(),
                cwd="/",
                start_new_session=True,
                **self.identity.popen(),
            )
            _, said = await process.communicate()
        if process.returncode:
            raise TmuxError(
                said.decode("utf-8", "replace").strip() or f"tmux ended with {process.returncode}"
            )

    async def close(self) -> None:
        """End the tmux server and every shell in it, for good."""
        self.closed = True
        if self.accepting is not None:
            self.accepting.cancel()
        for task in list(self.introducing):
            task.cancel()
        if self.listening is not None:
            self.listening.close()
        with suppress(TmuxError, OSError, TimeoutError):
            async with asyncio.timeout(5):
                await self.command("kill-server")


_START = ("start-server", *(word for option in _OPTIONS for word in (";", *option)))

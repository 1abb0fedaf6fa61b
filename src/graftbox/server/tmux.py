"""The private tmux server: starting it, opening panes, and routing their events.

Every pane runs the launcher (launcher.py), which calls back on a private socket; a `Pane` is the pane's
terminal and that socket together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graftbox.server.control import ControlClient, TmuxError
from graftbox.server.environment import helper_environment

COLUMNS, ROWS = 200, 50
LAUNCH_SECONDS = 30.0
FAREWELL_SECONDS = 2.0
_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_OPTIONS: tuple[tuple[str, ...], ...] = (
    # With its only client, this server, tmux and its shells end too.
    ("set-option", "-g", "destroy-unattached", "on"),
    ("set-option", "-g", "escape-time", "0"),
    ("set-option", "-g", "default-terminal", "screen"),
    ("set-option", "-g", "history-limit", "10000"),
    ("set-option", "-g", "status", "off"),
    ("set-option", "-g", "default-size", f"{COLUMNS}x{ROWS}"),
    ("set-option", "-g", "remain-on-exit", "on"),
    ("set-option", "-g", "automatic-rename", "off"),
    ("set-option", "-g", "allow-rename", "off"),
)
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]+")
_TEXT_AT_ONCE = 1000


@dataclass(frozen=True)
class Program:
    """What a pane runs: ``argv`` (whose first word is the file), where, and with which variables."""

    argv: tuple[str, ...]
    cwd: str
    environment: tuple[bytes, ...]

    def packed(self, farewell: bytes) -> bytes:
        """As the launcher reads it: a length, then NUL-separated fields."""
        words = [os.fsencode(word) for word in (self.argv[0], *self.argv)]
        head = (farewell, os.fsencode(self.cwd), str(len(words)).encode())
        body = b"\0".join((*head, *words, *self.environment))
        return len(body).to_bytes(8, "big") + body


@dataclass(frozen=True)
class Listener:
    """What the owner of a pane wants to hear.

    ``output``: bytes for the terminal; ``report``: bytes from the private socket; ``died``: the exit status,
    minus the number of the signal that killed it, or None when its terminal is gone.
    """

    output: Callable[[bytes], None]
    report: Callable[[bytes], None]
    died: Callable[[int | None], None]


class Pane(asyncio.Protocol):
    """One launcher's call and its terminal, before and after its shell has taken over."""

    def __init__(self, tmux: Tmux) -> None:
        self.tmux = tmux
        self.id = ""
        self.control: ControlClient | None = None
        self.exit_handle: int | None = None
        self.dead = False
        self.listener: Listener | None = None
        self.hello = b""
        self.farewell = os.urandom(8).hex().encode()
        self.status: int | None = None
        self.said_farewell = False
        self.last_output = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.tmux.died(self, None)

    def data_received(self, data: bytes) -> None:
        if not self.listener:
            self.hello += data
            if b"\n" in self.hello or len(self.hello) > 200:
                self.tmux.introduce(self)
        elif ended := re.search(rb"\x00%s (-?\d+)\x00" % self.farewell, data):
            self.listener.report(data[: ended.start()])
            self.status = int(ended[1])
            # A terminal that is stopped (Ctrl-S) does not let the farewell through.
            asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self.tmux.died, self, self.status)
            self._settle()
        else:
            self.listener.report(data)

    def output(self, data: bytes) -> None:
        """Take bytes for the terminal; after the farewell among them none are missing."""
        if self.listener:
            self.listener.output(data)
            recent = self.last_output + data
            mark = b"\x1b]7777;%s\x07" % self.farewell
            self.said_farewell = self.said_farewell or mark in recent
            self.last_output = recent[-len(mark) :]
            self._settle()

    def _settle(self) -> None:
        if self.said_farewell and self.status is not None:
            self.tmux.died(self, self.status)

    def watch(self, pid: int) -> None:
        """Learn from the kernel when the launcher is killed; before Linux 5.3 its shell has to end too."""
        with contextlib.suppress(OSError):
            self.exit_handle = os.pidfd_open(pid)
            asyncio.get_running_loop().add_reader(self.exit_handle, self.tmux.died, self, None)

    def unwatch(self) -> None:
        if self.exit_handle is not None:
            asyncio.get_running_loop().remove_reader(self.exit_handle)
            os.close(self.exit_handle)
            self.exit_handle = None

    def write(self, data: bytes) -> None:
        self.transport.write(data)


class Tmux:
    """A tmux server of our own in the private folder ``folder``; starts with the first pane, restarts when
    killed.
    """

    def __init__(self, binary: str, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        self.control: ControlClient | None = None
        self.client: subprocess.Popen[bytes] | None = None
        self.listening: asyncio.Server | None = None
        self.panes: dict[str, Pane] = {}
        self.expected: dict[str, tuple[Program, Listener, asyncio.Future[Pane]]] = {}
        self.starting = asyncio.Lock()
        self.closed = False

    async def open(self, program: Program, listener: Listener) -> Pane:
        """A new pane running ``program``; raises `TmuxError` when it does not come up."""
        if self.closed:
            raise TmuxError("the server is ending")
        loop = asyncio.get_running_loop()
        token = os.urandom(16).hex()
        ready: asyncio.Future[Pane] = loop.create_future()
        self.expected[token] = program, listener, ready
        launcher = (sys.executable, "-ISB", _LAUNCHER, str(self.folder / "shell"), token)
        try:
            async with self.starting:
                if self.control is None or self.control.closed:
                    await self._start(launcher)
                else:
                    await self.control.command("new-window", "-d", "--", *launcher)
            async with asyncio.timeout(LAUNCH_SECONDS):
                pane = await ready
            pane.control = self.control
            return pane
        except (TimeoutError, OSError) as error:
            raise TmuxError(f"The shell's launcher did not start under tmux: {error}") from error
        finally:
            del self.expected[token]

    async def _start(self, launcher: tuple[str, ...]) -> None:
        loop = asyncio.get_running_loop()
        if self.listening is None:
            self.listening = await loop.create_unix_server(lambda: Pane(self), str(self.folder / "shell"))
        if self.client is not None:
            self.client.wait()
        words: list[str] = ["start-server"]
        for option in _OPTIONS:
            words += [";", *option]
        words += [";", "new-session", "-x", str(COLUMNS), "-y", str(ROWS), "--", *launcher]
        ours, theirs = socket.socketpair()
        with theirs:
            path = str(self.folder / "tmux")
            self.client = subprocess.Popen(
                [self.binary, "-u", "-S", path, "-f", "/dev/null", "-C", *words],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env=helper_environment(),
                cwd="/",
                start_new_session=True,
            )
        control = ControlClient(self._output, self._gone)
        await loop.create_connection(lambda: control, sock=ours)
        self.control = control

    def introduce(self, pane: Pane) -> None:
        """A launcher has called: give it its program if its token is one we handed out (once)."""
        words = pane.hello.decode("ascii", "replace").split()
        entry = self.expected.get(words[0]) if len(words) == 3 else None
        if entry is None or entry[2].done():
            pane.transport.close()
            return
        program, pane.listener, ready = entry
        pane.id = words[1]
        self.panes[pane.id] = pane
        pane.watch(int(words[2]))
        pane.write(program.packed(pane.farewell))
        ready.set_result(pane)

    async def type(self, pane: Pane, text: str, *, enter: bool) -> None:
        """Type ``text`` on the pane's keyboard, then Enter if asked."""
        position = 0
        for match in _CONTROL_CHARACTERS.finditer(text):
            await self._literal(pane, text[position : match.start()])
            codes = ["0d" if character == "\n" else f"{ord(character):02x}" for character in match[0]]
            await self._keys(pane, "-H", *codes)
            position = match.end()
        await self._literal(pane, text[position:])
        if enter:
            await self._keys(pane, "Enter")

    async def press(self, pane: Pane, key: str) -> None:
        """Press one key by tmux's name for it, as ``C-c``."""
        await self._keys(pane, key)

    async def _literal(self, pane: Pane, text: str) -> None:
        for start in range(0, len(text), _TEXT_AT_ONCE):
            await self._keys(pane, "-l", "--", text[start : start + _TEXT_AT_ONCE])

    async def _keys(self, pane: Pane, *words: str) -> None:
        if self.control is None or pane.dead:
            raise TmuxError("the terminal is gone")
        await self.control.command("send-keys", "-t", pane.id, *words)

    async def close_pane(self, pane: Pane) -> None:
        """Remove the pane and end what still runs in its foreground."""
        self._forget(pane)
        pane.dead = True
        pane.unwatch()
        pane.transport.close()
        if pane.control and not pane.control.closed:
            with contextlib.suppress(TmuxError):
                await pane.control.command("kill-pane", "-t", pane.id)

    async def close(self) -> None:
        """End the tmux server and every shell in it, for good."""
        self.closed = True
        if self.listening:
            self.listening.close()
        if self.control and not self.control.closed:
            self.control.transport.write(b"kill-server\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while not self.control.closed:
                        await asyncio.sleep(0.005)
            self.control.transport.close()
        if self.client:
            self.client.terminate()
            self.client.wait()

    def _forget(self, pane: Pane) -> None:
        # After a restart of tmux the same number names another pane.
        if self.panes.get(pane.id) is pane:
            del self.panes[pane.id]

    def _output(self, pane: str, data: bytes) -> None:
        if target := self.panes.get(pane):
            target.output(data)

    def _gone(self) -> None:
        for pane in list(self.panes.values()):
            self.died(pane, None)
        for _, _, ready in self.expected.values():
            if not ready.done():
                ready.set_exception(TmuxError("tmux ended while a shell was starting"))

    def died(self, pane: Pane, status: int | None) -> None:
        """Tell the owner, once, that the pane's program has ended."""
        if not pane.dead:
            pane.dead = True
            pane.unwatch()
            self._forget(pane)
            pane.transport.close()
            if pane.listener:
                pane.listener.died(status)

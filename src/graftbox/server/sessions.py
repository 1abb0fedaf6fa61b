"""Named shell sessions: opening, finding and closing them, and what can be done with each.

The session called "main" is the one that ``/execute_action`` uses. A session lives until it is closed; its
shell may die and is then replaced by the next command.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from graftbox.errors import NotFoundError, UnsupportedError, UsageError
from graftbox.server.conversation import Conversation
from graftbox.server.log import Log
from graftbox.server.shell import Death, Report, Running, Shell
from graftbox.server.tmux import COLUMNS, ROWS

if TYPE_CHECKING:
    from graftbox.server.identity import Identity
    from graftbox.server.sandbox import Sandbox

MAIN = "main"
LIMIT = 128
"""Sessions at once."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

State = Literal["idle", "running", "dead"]


class NameTakenError(UsageError):
    """A session of this name is open already."""


class TooManyError(UnsupportedError):
    """As many sessions as may be are open."""


class BusyError(UsageError):
    """The session's shell is running a command and can't take another."""


class Command:
    """A command in a session's shell, which goes on whether anybody waits for it or not.

    ``start`` and ``end`` are offsets in the session's log: the slice between them is its own output, nothing
    else. ``start`` is known once the shell has taken the command, ``end`` (None until then) once it is done.
    ``done`` resolves to a `Report` (its ``status`` is the exit code) or to the `Death` of the shell.
    """

    def __init__(self, text: str, running: Running, start: int) -> None:
        self.id = os.urandom(8).hex()
        self.text = text
        self.started = time.time()
        self.start = start
        self.end: int | None = None
        self.done: asyncio.Future[Report | Death] = running.done


class Session:
    """One shell with a terminal, a log and a conversation of its own.

    ``state``: "idle" (takes a command), "running" (has one), "dead" (its shell has ended; the next command
    gets a new one).
    """

    def __init__(self, name: str, shell: Shell, silence: float) -> None:
        self.name = name
        self.created = time.time()
        self.log = Log()
        self.shell = shell
        self.conversation = Conversation(shell, silence)
        self.columns, self.rows = COLUMNS, ROWS
        self.command: Command | None = None
        """The command that runs, else the last one."""

    @property
    def state(self) -> State:
        if self.shell.running is not None:
            return "running"
        return "idle" if self.shell.pane is not None and not self.shell.pane.dead else "dead"

    async def start(
        self, command: str, *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> Command:
        """Run ``command`` and return at once; raises `BusyError` while another one runs.

        ``cwd`` and ``env`` hold for this command alone: it then runs in a subshell, so that a ``cd`` or an
        ``export`` inside ends with it.
        """
        if self.shell.running is not None:
            raise BusyError(f"The session {self.name} is running a command; wait for it or press C-c.")
        running = await self.shell.run(command)
        self.command = Command(command, running, self.log.end)
        return self.command

    async def write(self, data: bytes) -> None:
        """Bytes as typed on the terminal's keyboard."""
        await self.shell.type(data.decode("utf-8", "replace"))

    async def press(self, key: str) -> None:
        """Press a key by tmux's name for it: "C-c", "Enter", "Up", "F1"."""
        await self.shell.press(key)

    async def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size; the program in it gets SIGWINCH."""
        self.columns, self.rows = columns, rows

    async def signal(self, number: int) -> list[int]:
        """Send signal ``number`` to the terminal's foreground process group; returns its pids.

        At the prompt that is the shell itself. Raises `NotFoundError` when the shell is dead.
        """
        raise UnsupportedError(f"Signal {signal.Signals(number).name} can't be sent yet.")

    async def reset(self) -> None:
        """Kill the shell and everything in its terminal's session, and start a fresh shell."""
        await self.shell.close()
        await self.shell.start()

    async def close(self) -> None:
        await self.shell.close()
        self.log.close()


class Sessions:
    """The sessions by name."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.limit = LIMIT
        self._sessions: dict[str, Session] = {}

    async def open(
        self,
        name: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        shell: str | None = None,
        columns: int = COLUMNS,
        rows: int = ROWS,
    ) -> Session:
        """A new session whose shell is ready.

        ``cwd``: where it starts, instead of the working folder; ``env``: variables beside the container's
        own; ``identity``: whom it runs as, the sandbox's by default; ``shell``: path of another bash. Raises
        `UsageError` (a bad name or size), `NameTakenError`, `TooManyError` or, when no shell comes up,
        `UnsupportedError`.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name for a session: use 1 to 64 letters, digits, '.', '_' and '-', "
                "and begin with a letter or digit."
            )
        if name in self._sessions:
            raise NameTakenError(f"A session called {name} is open already; close it or choose another name.")
        if len(self._sessions) >= self.limit:
            raise TooManyError(f"{self.limit} sessions are open, which is the limit; close one first.")
        await self.sandbox.open()
        assert self.sandbox.tmux is not None
        session = Session(name, self.sandbox._shell(self.sandbox.tmux, cwd), self.sandbox.settings.silence)
        self._sessions[name] = session
        try:
            await session.shell.start()
        except BaseException:
            del self._sessions[name]
            raise
        return session

    def get(self, name: str) -> Session:
        """Raises `NotFoundError`."""
        try:
            return self._sessions[name]
        except KeyError:
            raise NotFoundError(f"There is no session called {name}; open it first.") from None

    def list(self) -> list[Session]:
        return list(self._sessions.values())

    async def main(self) -> Session:
        """The session of ``/execute_action``, opened with its first use."""
        if MAIN not in self._sessions:
            return await self.open(MAIN)
        return self.get(MAIN)

    async def close(self, name: str) -> None:
        """End the session and everything in it; raises `NotFoundError`."""
        session = self.get(name)
        del self._sessions[name]
        await session.close()

"""Named shell sessions: opening, finding and closing them, over the life of one server and the next.

The session called "main" is the one that ``/execute_action`` uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.errors import GraftboxError, NotFoundError, UnsupportedError, UsageError
from graftbox.server import runtime
from graftbox.server.environment import find_shells, find_tmux
from graftbox.server.identity import Identity
from graftbox.server.pane import call
from graftbox.server.record import Record
from graftbox.server.session import BusyError, Parts, Plan, Session, check_variables
from graftbox.server.tmux import COLUMNS, ROWS, Tmux

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

__all__ = ["MAIN", "BusyError", "NameTakenError", "Session", "Sessions", "TooManyError"]

MAIN = "main"
LIMIT = 128
"""Sessions at once."""
LARGEST = 1000
"""Columns, or rows, of a terminal."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger("graftbox.sessions")


class NameTakenError(UsageError):
    """A session of this name is open already."""


class TooManyError(UnsupportedError):
    """As many sessions as may be are open."""


class Sessions:
    """The sessions by name."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.limit = LIMIT
        self.folder: Path | None = None
        self.lock = -1
        self._binary = ""
        self._sessions: dict[str, Session] = {}
        self._apart: set[Session] = set()
        self._tmux: dict[int, Tmux] = {}
        self._preparing = asyncio.Lock()
        self._opening_main = asyncio.Lock()

    async def prepare(self) -> None:
        """Have a runtime folder, and the sessions that a former server has left in it; once."""
        async with self._preparing:
            if self.folder is not None:
                return
            settings, environment = self.sandbox.settings, self.sandbox.environment
            self._binary = find_tmux(environment)
            key = runtime.key_of(settings.port, settings.socket)
            folder, self.lock = runtime.claim(environment, settings.working_dir, key)
            self.folder = folder
            for path in sorted(folder.glob("s/*.json")):
                await self._adopt(path)
            for leftover in folder.glob("s/*"):
                if leftover.stem not in {session.id for session in self._sessions.values()}:
                    leftover.unlink(missing_ok=True)

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
        `UsageError` (a bad name, folder, variable or size), `NameTakenError`, `TooManyError` or, when no
        shell comes up, `UnsupportedError`.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name for a session: use 1 to 64 letters, digits, '.', '_' and '-', "
                "and begin with a letter or digit."
            )
        check_variables(env or {})
        if not (0 < columns <= LARGEST and 0 < rows <= LARGEST):
            raise UsageError(f"A terminal has 1 to {LARGEST} columns and rows, not {columns} by {rows}.")
        identity = identity or self.sandbox.identity
        if cwd:
            await identity.call(_enter, self._cwd(cwd))
        await self.prepare()
        if name in self._sessions:
            raise NameTakenError(f"A session called {name} is open already; close it or choose another name.")
        if len(self._sessions) >= self.limit:
            raise TooManyError(f"{self.limit} sessions are open, which is the limit; close one first.")
        plan = Plan(name, self._cwd(cwd), dict(env or {}), identity, shell)
        session = self._sessions[name] = self._session(plan, columns, rows)
        try:
            await session.shell.start()
        except BaseException:
            self._sessions.pop(name, None)
            await session.close()
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
        async with self._opening_main:
            await self.prepare()
            if MAIN not in self._sessions:
                return await self.open(MAIN)
            return self.get(MAIN)

    @property
    def cwd(self) -> str:
        """Where the main session's shell is."""
        main = self._sessions.get(MAIN)
        return main.shell.cwd if main else self.sandbox.settings.working_dir

    async def close(self, name: str) -> None:
        """End the session and everything in it; raises `NotFoundError`."""
        session = self.get(name)
        del self._sessions[name]
        await session.close()

    @contextlib.asynccontextmanager
    async def apart(self, cwd: str | None) -> AsyncIterator[Session]:
        """A session that is in no list, for one action."""
        await self.prepare()
        plan = Plan("", self._cwd(cwd), {}, self.sandbox.identity, None)
        session = self._session(plan, COLUMNS, ROWS)
        self._apart.add(session)
        try:
            yield session
        finally:
            self._apart.discard(session)
            await session.close()

    async def end(self) -> None:
        """End all sessions and remove every trace of them: this server stops in order."""
        await asyncio.gather(*(session.hang_up() for session in (*self._sessions.values(), *self._apart)))
        for tmux in self._tmux.values():
            await tmux.close()
        if self.folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self.folder)
            os.close(self.lock)

    def _cwd(self, cwd: str | None) -> str:
        return str(Path(self.sandbox.settings.working_dir, cwd or ""))

    def _session(self, plan: Plan, columns: int, rows: int) -> Session:
        assert self.folder is not None
        base = self.folder / "s" / os.urandom(3).hex()
        return Session.create(base, plan, self._parts(plan), (columns, rows))

    def _parts(self, plan: Plan) -> Parts:
        settings, environment = self.sandbox.settings, self.sandbox.environment
        shells = find_shells(environment, plan.shell or settings.shell)
        return Parts(self._tmux_of(plan.identity), environment, shells, settings.silence)

    def _tmux_of(self, identity: Identity) -> Tmux:
        assert self.folder is not None
        if identity.uid not in self._tmux:
            place = runtime.place_for(self.folder, identity)
            self._tmux[identity.uid] = Tmux(self._binary, place, identity)
        return self._tmux[identity.uid]

    async def _adopt(self, path: Path) -> None:
        """Take up the session that the record at ``path`` speaks of, if its keeper lives."""
        record = Record(path)
        facts = record.load()
        connection = None
        try:
            if not facts or not facts["name"]:
                raise ValueError("nobody will ask for it")
            plan = Plan.known(facts)
            parts = self._parts(plan)
            try:
                connection, hello = await call(path.with_suffix(".sock"))
            except (OSError, TimeoutError):
                session = Session.revive(plan, parts, facts, record)
            else:
                session = await Session.adopt(plan, parts, facts, record, connection, hello)
        except (KeyError, TypeError, ValueError, OSError, GraftboxError) as error:
            log.warning("A session of the server before is given up: %s", error)
            if connection is not None:
                connection.close()
            runtime.end_keeper(path.with_suffix(".sock"))
            record.remove()
        else:
            self._sessions[session.name] = session


def _enter(folder: str) -> None:
    """Raises `UsageError` where a shell could not start in this folder; blocking."""
    try:
        Path(folder, "..").stat()
    except OSError as error:
        raise UsageError(f"{folder!r} can't be used: {error.strerror}.") from error

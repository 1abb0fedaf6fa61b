"""One session: a shell with a terminal, a log and a conversation of its own.

It lives until it is closed; its shell may die and is then replaced by the next command.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from graftbox.errors import NotFoundError, UsageError
from graftbox.server import ring
from graftbox.server.command import Command, Death
from graftbox.server.conversation import Conversation
from graftbox.server.environment import Environment, user_name
from graftbox.server.identity import Identity
from graftbox.server.log import Log
from graftbox.server.pane import Hello
from graftbox.server.record import Record
from graftbox.server.shell import Shell, Terms
from graftbox.server.tmux import Tmux

State = Literal["idle", "running", "dead"]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BusyError(UsageError):
    """The session's shell is running a command and can't take another."""


@dataclass(frozen=True)
class Plan:
    """What was asked of a session when it was opened; ``name`` is empty for one that is in no list."""

    name: str
    cwd: str
    env: dict[str, str]
    identity: Identity
    shell: str | None

    @classmethod
    def known(cls, facts: dict[str, Any]) -> Plan:
        identity = Identity(**{**facts["identity"], "groups": tuple(facts["identity"]["groups"])})
        return cls(facts["name"], facts["cwd"], facts["env"], identity, facts["shell"])


@dataclass(frozen=True)
class Parts:
    """What a sandbox has for all of its sessions."""

    tmux: Tmux
    environment: Environment
    shells: tuple[str, ...]
    silence: float


class Session:
    """``state``: "idle" (takes a command), "running" (has one), "dead" (its shell has ended; the next command
    gets a new one).
    """

    def __init__(
        self, base: Path, plan: Plan, parts: Parts, output: Log, record: Record, size: tuple[int, int]
    ) -> None:
        self.id = base.stem
        self.base = base
        self.plan = plan
        self.name = plan.name
        self.created = time.time()
        self.log = output
        self.command: Command | None = None
        """The command that runs, else the last one."""
        self._record = record
        environment = plan.identity.environment(_with(parts.environment.for_a_terminal(), plan.env))
        user = plan.identity.uid if plan.identity.switched else None
        terms = Terms(plan.name or "static", parts.shells, environment, base.with_suffix(".sock"), user)
        self.shell = Shell(parts.tmux, terms, output, plan.cwd, *size)
        self.shell.on_change = self._save
        name = plan.identity.name or user_name(plan.identity.uid)
        self.conversation = Conversation(self.shell, parts.silence, name)

    @classmethod
    def create(cls, base: Path, plan: Plan, parts: Parts, size: tuple[int, int]) -> Session:
        """A session whose files begin with ``base``; its shell is not started yet."""
        output = Log.create(base.with_suffix(".log"))
        return cls(base, plan, parts, output, Record(base.with_suffix(".json")), size)

    @classmethod
    async def adopt(
        cls,
        plan: Plan,
        parts: Parts,
        facts: dict[str, Any],
        record: Record,
        connection: socket.socket,
        hello: Hello,
    ) -> Session:
        """The session of a former server, whose keeper is at the other end of ``connection``."""
        output = Log(hello.descriptor, hello.end)
        session = cls._known(plan, parts, facts, record, output)
        session.shell.place, session.shell.nonce = facts["place"], facts["nonce"]
        session.shell.last_status = facts["last_status"]
        command = Command.known(facts["command"], output) if facts["command"] else None
        await session.shell.adopt(connection, hello, command)
        if not facts["ready"]:
            session.shell.death = None  # no news
        if command is not None and command.number == hello.number:
            session.command = command
            if not command.heard:
                session.conversation.current = command
                session.conversation.spoke = facts["spoke"]
        return session

    @classmethod
    def revive(cls, plan: Plan, parts: Parts, facts: dict[str, Any], record: Record) -> Session:
        """The session of a former server whose shell is dead: its log is here, its next command gets a new
        shell. Raises `OSError`.
        """
        descriptor = os.open(record.path.with_suffix(".log"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        session = cls._known(plan, parts, facts, record, Log(descriptor, ring.header(descriptor)[2]))
        session.shell.death = Death(None) if facts["ready"] else None
        return session

    @classmethod
    def _known(cls, plan: Plan, parts: Parts, facts: dict[str, Any], record: Record, output: Log) -> Session:
        size = int(facts["columns"]), int(facts["rows"])
        session = cls(record.path, plan, parts, output, record, size)
        session.created, session.shell.cwd = facts["created"], facts["where"]
        return session

    @property
    def columns(self) -> int:
        return self.shell.columns

    @property
    def rows(self) -> int:
        return self.shell.rows

    @property
    def state(self) -> State:
        if self.shell.running is not None:
            return "running"
        return "idle" if self.shell.ready else "dead"

    async def start(
        self, command: str, *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> Command:
        """Run ``command`` and return at once; raises `BusyError` while another one runs.

        ``cwd`` and ``env`` hold for this command alone: it then runs in a subshell, so that a ``cd`` or an
        ``export`` inside ends with it.
        """
        if "\0" in command or "\0" in (cwd or ""):
            raise UsageError("The command holds a NUL character, which no shell command can.")
        check_variables(env or {})
        if self.shell.running is not None:
            raise BusyError(f"The session {self.name} is running a command; wait for it or press C-c.")
        return await self.shell.run(command, cwd, env)

    async def write(self, data: bytes) -> None:
        """Bytes as typed on the terminal's keyboard."""
        await self.shell.write(data)

    async def press(self, key: str) -> None:
        """Press a key by tmux's name for it: "C-c", "Enter", "Up", "F1"."""
        await self.shell.press(key)

    async def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size; the program in it gets SIGWINCH."""
        await self.shell.resize(columns, rows)
        self._save()

    async def signal(self, number: int) -> list[int]:
        """Send signal ``number`` to the terminal's foreground process group; returns its pids.

        At the prompt that is the shell itself. Raises `NotFoundError` when there is none.
        """
        pids = await self.shell.signal(number)
        if not pids:
            raise NotFoundError(
                f"The shell of the session {self.name} is dead; its next command gets a new one."
            )
        return pids

    async def reset(self) -> None:
        """Kill the shell and everything in its terminal's session, and start a fresh shell."""
        await self.shell.close()
        self.shell.death, self.shell.cwd = None, self.plan.cwd
        await self.shell.start()

    async def close(self) -> None:
        """End everything in the session, and forget it."""
        await self.shell.close()
        self.log.close()
        self._record.remove()
        for suffix in (".log", ".sock"):
            with contextlib.suppress(OSError):
                self.base.with_suffix(suffix).unlink()

    async def hang_up(self) -> None:
        """End the terminal, as a person who closes its window: the server is stopping."""
        await self.shell.hang_up()
        self.log.close()

    def _save(self) -> None:
        shell = self.shell
        self.command = shell.running or self.command
        self._record.save(
            {
                **asdict(self.plan),
                "created": self.created,
                "columns": shell.columns,
                "rows": shell.rows,
                "where": shell.cwd,
                "place": shell.place,
                "nonce": shell.nonce,
                "last_status": shell.last_status,
                "ready": shell.ready,
                "command": self.command.facts() if self.command else None,
                "spoke": self.conversation.spoke,
            }
        )


def check_variables(env: Mapping[str, str]) -> None:
    """Raises `UsageError` where a name or value can't be in an environment."""
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a variable: use letters, digits and '_'.")
        if "\0" in value:
            raise UsageError(f"The value of {name} holds a NUL character, which no variable can.")


def _with(entries: tuple[bytes, ...], env: Mapping[str, str]) -> tuple[bytes, ...]:
    mine = {os.fsencode(name): value.encode("utf-8", "surrogateescape") for name, value in env.items()}
    kept = (entry for entry in entries if entry.partition(b"=")[0] not in mine)
    return (*kept, *(name + b"=" + value for name, value in mine.items()))

"""A command in a session's shell: where its output lies in the log, and how it ended."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graftbox.server.log import Log
from graftbox.server.terminal import full_screen

HEAD = TAIL = 4 * 1024 * 1024
"""Bytes of a long output that an answer is made of."""
_NEWS = re.compile(rb"^\[\d+\][+-]?\s+Running\s")


@dataclass(frozen=True, slots=True)
class Report:
    """What the shell says after a command; ``background`` is the pid of its last background job, or -1."""

    status: int
    background: int
    cwd: str
    path: str


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a shell: its exit status, minus the number of the signal that killed it, or None with the
    reason.
    """

    status: int | None
    reason: str = "The terminal of the shell was killed"

    def __str__(self) -> str:
        if self.status is None:
            return self.reason
        if self.status < 0:
            return f"The shell was killed by signal {-self.status}"
        return f"The shell exited with exit code {self.status}"

    @property
    def exit_code(self) -> int:
        return -1 if self.status is None else self.status if self.status >= 0 else 128 - self.status


class Command:
    """A command in a session's shell, which goes on whether anybody waits for it or not.

    ``start`` and ``end`` are offsets in the session's log: the slice between them is its own output and
    nothing else. Before the shell has taken the command ``start`` is where the log ended; ``end`` is None
    until it is done. ``done`` resolves to a `Report` (its ``status`` is the exit code) or to the `Death` of
    the shell.
    """

    def __init__(self, text: str, number: int, log: Log) -> None:
        self.id = os.urandom(8).hex()
        self.text = text
        self.number = number
        self.log = log
        self.started = time.time()
        self.start = self.taken = log.end
        self.end: int | None = None
        self.done: asyncio.Future[Report | Death] = asyncio.get_running_loop().create_future()
        self.begun, self.begun_at = asyncio.Event(), 0.0
        self.heard = False
        """Whether its end has been told to whoever gave it."""
        self.last_output = time.monotonic()
        self.on_end: Callable[[], None] = lambda: None
        self._marks: list[tuple[str, int]] = []
        self.reported_by: dict[str, Report] = {}
        self._head = bytearray()
        self.screen: int | None = None
        """Where a program began to draw on the whole screen."""

    def facts(self) -> dict[str, Any]:
        """What the next server needs to know; JSON."""
        names = ("id", "text", "number", "started", "taken", "heard", "screen")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def known(cls, facts: dict[str, Any], log: Log) -> Command:
        """The command that a former server has started; its marks and reports are told again."""
        command = cls(facts["text"], facts["number"], log)
        command.id, command.started, command.heard = facts["id"], facts["started"], facts["heard"]
        command.taken, command.screen = max(log.start, facts["taken"]), facts["screen"]
        return command

    # -- what the shell says

    def marked(self, phase: str, offset: int) -> None:
        if phase == "B":
            self.start, self.begun_at = offset, time.monotonic()
            self.begun.set()
            # A former server may have told of some of it already.
            self.taken = max(offset, self.taken)
        self._marks.append((phase, offset))
        self._settle()

    def reported(self, phase: str, report: Report) -> None:
        self.reported_by.setdefault(phase, report)
        self._settle()

    def advanced(self) -> None:
        """The log has grown."""
        if self._marks and self._marks[-1][0] == "B":
            self.last_output = time.monotonic()
            self._keep_head()

    def died(self, death: Death) -> None:
        if not self.done.done():
            self.end = self.log.end
            self.begun.set()
            self.done.set_result(death)
            self.on_end()

    def _settle(self) -> None:
        """Done when a mark and a report are there, on their two channels; the first line's report counts."""
        places = dict(reversed(self._marks))
        for phase in ("E", "Z"):
            report = self.reported_by.get(phase)
            if report and phase in places and not self.done.done():
                self.end = places[phase]
                self.done.set_result(report)
                self.on_end()

    # -- what it has printed

    def take(self, limit: int = HEAD) -> tuple[bytes, bytes, int]:
        """``(head, tail, dropped)`` of what came since the last time; ``tail`` follows ``head`` directly when
        nothing was dropped. Blocking: reads up to ``2 * limit`` bytes.
        """
        end, notices = self._news()
        # A screen that is still drawn on is told as a whole every time.
        begin = self.taken if self.screen is None else max(self.screen, self.log.start)
        self.taken = end if self.end is None else self.end
        head, self._head = bytes(self._head) if self.screen is None else b"", bytearray()
        if end - begin <= 2 * limit:
            head += self._slice(begin + len(head), end)
            self._look_for_screen(head, begin)
            return head, notices, 0
        head = head[:limit] + self._slice(begin + len(head), begin + limit)
        tail = self._slice(max(end - limit, begin + len(head)), end)
        self._look_for_screen(tail, end - len(tail))
        return head, tail + notices, end - begin - len(head) - len(tail)

    def _look_for_screen(self, data: bytes, offset: int) -> None:
        found = full_screen(data)
        self.screen = None if found is None else offset + found

    def _news(self) -> tuple[int, bytes]:
        """Where the command's own text ends, and what the shell says about its jobs after that."""
        if self.end is None:
            # What came before the shell has taken the command is not its output.
            return self.log.end if self.begun.is_set() else self.taken, b""
        own = [offset for phase, offset in self._marks if phase == "J" and offset <= self.end]
        if not own:
            return self.end, b""
        # A job that was started just now is no news: the shell has printed its number.
        lines = self._slice(max(own[0], self.taken), self.end).splitlines(keepends=True)
        return max(own[0], self.taken), b"".join(line for line in lines if not _NEWS.match(line))

    def _slice(self, begin: int, end: int) -> bytes:
        pieces = []
        begin = max(begin, self.log.start)
        while begin < end:
            piece = self.log.peek(begin, end - begin)
            if not piece:
                break
            pieces.append(piece)
            begin = max(begin, self.log.start) + len(piece)
        return b"".join(pieces)

    def _keep_head(self) -> None:
        """Save the beginning of a long output before the log drops it."""
        wanted = min(HEAD, self.log.capacity // 4)
        if len(self._head) < wanted and self.log.end - self.taken > self.log.capacity // 2:
            self._head += self._slice(self.taken + len(self._head), self.taken + wanted)

"""One persistent bash: running a command in it and knowing exactly what it printed and how it ended.

Per command the shell gets two lines on its private socket. The first prints a mark on the terminal, runs the
command, reports and prints a second mark; the second line does so again, which matters only after Ctrl-C has
aborted the first. Nothing is typed, so nothing is echoed, and neither prompt, alias, trap nor PROMPT_COMMAND
can come between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from dataclasses import dataclass

from graftbox.errors import UnsupportedError
from graftbox.server.control import TmuxError
from graftbox.server.environment import Environment
from graftbox.server.output import Marks, Output
from graftbox.server.quoting import ansi_c
from graftbox.server.tmux import Listener, Pane, Program, Tmux

READY_SECONDS = 15.0
_FIELDS = 5
_RUNNING = re.compile(rb"^\[\d+\][+-]?\s+Running\s")

log = logging.getLogger("graftbox.shell")


@dataclass(frozen=True, slots=True)
class Report:
    """What the shell says after a command; ``background`` is the pid of its last background job, or -1."""

    status: int
    background: int
    cwd: str
    path: str


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a shell: ``status`` as in `Listener`."""

    status: int | None

    def __str__(self) -> str:
        if self.status is None:
            return "The terminal of the shell was killed"
        if self.status < 0:
            return f"The shell was killed by signal {-self.status}"
        return f"The shell exited with exit code {self.status}"

    @property
    def exit_code(self) -> int:
        return -1 if self.status is None else self.status if self.status >= 0 else 128 - self.status


class Running:
    """A command in the shell, from the moment it was sent; ``done`` resolves to how it ended."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.output = Output()
        self.last_output = time.monotonic()
        self.phase = ""
        self.notices = bytearray()
        self.reports: dict[str, Report] = {}
        self.done: asyncio.Future[Report | Death] = asyncio.get_running_loop().create_future()

    def text(self, data: bytes) -> None:
        if self.phase == "B":
            self.output.append(data)
            self.last_output = time.monotonic()
        elif self.phase == "J":
            self.notices += data

    def mark(self, phase: str) -> None:
        self.phase = phase
        self.settle()

    def report(self, phase: str, report: Report) -> None:
        self.reports[phase] = report
        self.settle()

    def settle(self) -> None:
        """Done when a mark and a report are there, on their two channels; the first line's report counts."""
        report = self.reports.get("E") or self.reports.get(self.phase)
        if report and self.phase in ("E", "Z") and not self.done.done():
            # A job that was started just now is no news: the shell has printed its number.
            for line in bytes(self.notices).splitlines(keepends=True):
                if not _RUNNING.match(line):
                    self.output.append(line)
            self.done.set_result(report)

    def died(self, death: Death) -> None:
        if not self.done.done():
            self.done.set_result(death)


class Shell:
    """A bash in a tmux pane that is started, and started again, whenever a command needs it."""

    def __init__(self, tmux: Tmux, environment: Environment, shells: tuple[str, ...], cwd: str) -> None:
        self.tmux = tmux
        self.environment = environment
        self.shells = shells
        self.cwd = cwd
        self.pane: Pane | None = None
        self.running: Running | None = None
        self.death: Death | None = None
        self.last_status = 0
        self.number = 0
        self.starting = asyncio.Lock()

    async def start(self) -> None:
        """Have a shell that is ready; raises `UnsupportedError` when none of the candidates comes up."""
        async with self.starting:
            if self.pane is not None and not self.pane.dead:
                return
            reasons = []
            for path in self.shells:
                for options in ((), ("--norc",)):
                    try:
                        await self._launch(path, options)
                    except (TmuxError, TimeoutError) as error:
                        reasons.append(f"{' '.join((path, *options))}: {error or 'no answer'}")
                        log.warning("A shell did not start: %s", reasons[-1])
                    else:
                        return
            raise UnsupportedError(
                f"No shell could be started ({'; '.join(reasons)}); name a bash with --shell."
            )

    async def _launch(self, path: str, options: tuple[str, ...]) -> None:
        self._nonce = os.urandom(8).hex()
        self._marks = Marks(self._nonce)
        self._reported = b""
        self.last_status = 0
        self.number += 1
        running = Running(self.number)
        self.running = running
        argv = (path, "--noediting", *options, "-i")
        program = Program(argv, self.cwd, self.environment.for_a_terminal())
        old = self.pane
        self.pane = None
        listener = Listener(self._output, self._report, self._died)
        try:
            pane = await self.tmux.open(program, listener)
            pane.write(
                b"\\builtin set +o history +H; PS1= PS2=; " + self._report_line(b"Z") + b"\n",
            )
            async with asyncio.timeout(READY_SECONDS):
                ended = await running.done
        except TimeoutError:
            await self.tmux.close_pane(pane)
            raise
        finally:
            self.running = None
            if old is not None:
                await self.tmux.close_pane(old)
        if isinstance(ended, Death):
            await self.tmux.close_pane(pane)
            raise TmuxError(str(ended))
        self.pane = pane
        self.cwd = ended.cwd

    async def run(self, command: str) -> Running:
        """Start ``command`` (which must not contain NUL); only when nothing else is running."""
        await self.start()
        assert self.pane is not None
        self.number += 1
        self.running = Running(self.number)
        self.pane.write(self._lines(command))
        return self.running

    async def type(self, text: str) -> None:
        """Type a line for the running command; one that has no terminal any more has also ended."""
        if self.pane is not None:
            with contextlib.suppress(TmuxError):
                await self.tmux.type(self.pane, text, enter=True)

    async def press(self, key: str) -> None:
        """Press a key for the running command."""
        if self.pane is not None:
            with contextlib.suppress(TmuxError):
                await self.tmux.press(self.pane, key)

    async def close(self) -> None:
        if self.pane is not None:
            await self.tmux.close_pane(self.pane)
            self.pane = None

    def _lines(self, command: str) -> bytes:
        body = b"\\builtin eval -- " + ansi_c(command) + b" 0<&100 100<&- 101<&-"
        if self.last_status:
            # The command must find $? as its predecessor left it; a condition does not trip `set -e`.
            body = b"if (\\builtin exit %d); then \\builtin :; else %s; fi" % (self.last_status, body)
        begin = b"{ \\builtin printf '%s' >&100; } 2>&-" % self._mark(b"B")
        first = b"%s; %s; %s" % (begin, body, self._report_line(b"E"))
        # A shell that can't report any more (`enable -n printf`) ends, so that a new one can take its place.
        second = b"%s || \\exit 98; PS1= PS2=" % self._report_line(b"Z")
        return b"\\unset -f builtin; %s\n%s\n" % (first, second)

    def _mark(self, phase: bytes) -> bytes:
        return b"\\033]7777;%s;%s%d\\007" % (self._nonce.encode(), phase, self.number)

    def _report_line(self, phase: bytes) -> bytes:
        # With 1 and 2 closed neither `set -x` nor a DEBUG trap can add to the output. What bash would say
        # about jobs before its next prompt belongs to this command's output.
        fields = b'%s%d "$?" "${!-}" "${PWD-}" "${PATH-}"' % (phase, self.number)
        report = b"\\builtin printf '%%s\\0' %s >&101" % fields
        mark = b"\\builtin printf '%s' >&100" % self._mark(phase)
        news = b"\\builtin printf '%s' >&100; \\builtin jobs -n >&100" % self._mark(b"J")
        return b"{ %s; \\unset -f builtin; %s; %s; } >&- 2>&-" % (report, news, mark)

    def _output(self, data: bytes) -> None:
        for is_mark, piece in self._marks.feed(data):
            running = self.running
            if running is None:
                continue
            if not is_mark:
                running.text(piece)
            elif piece[1:] == str(running.number).encode():
                running.mark(piece[:1].decode())
        if self.running and self.running.done.done():
            self.running = None

    def _report(self, data: bytes) -> None:
        *fields, self._reported = (self._reported + data).split(b"\0")
        while len(fields) >= _FIELDS:
            name, status, background, cwd, path = fields[:_FIELDS]
            del fields[:_FIELDS]
            running = self.running
            if running is None or name[1:] != str(running.number).encode():
                continue
            where = os.fsdecode(cwd)
            pid = int(background) if background.isdigit() else -1
            if not running.reports:
                self.last_status = int(status)
                self.cwd = where if where.startswith("/") else self.cwd
            running.report(name[:1].decode(), Report(int(status), pid, where, os.fsdecode(path)))
        self._reported = b"\0".join([*fields, self._reported])
        if self.running and self.running.done.done():
            self.running = None

    def _died(self, status: int | None) -> None:
        self.death = Death(status)
        running, self.running = self.running, None
        if running is not None:
            running.died(self.death)
            self.death = None

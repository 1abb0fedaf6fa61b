"""One persistent bash: running a command in it and knowing exactly what it printed and how it ended.

Per command the shell gets two lines on its private socket. The first prints a mark on the terminal, runs the
command, reports and prints a second mark; the second line does so again, which matters only after Ctrl-C has
aborted the first. Nothing is typed, so nothing is echoed, and neither prompt, alias, trap nor PROMPT_COMMAND
can come between.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import UnsupportedError
from graftbox.server import processes, ring
from graftbox.server.command import Command, Death, Report
from graftbox.server.log import Log
from graftbox.server.pane import Hello, Pane, Program, connected
from graftbox.server.quoting import ansi_c
from graftbox.server.tmux import Tmux, TmuxError

READY_SECONDS = 15.0
BEGIN_SECONDS, SETTLING_SECONDS = 2.0, 0.05
_FIELDS = 5
# A pager would wait for a key after every `git log`. Where there is no git, `command -v git` must say so.
_NO_PAGER = (
    rb"\builtin type -P git >/dev/null && { \builtin alias git >/dev/null 2>&1 || "
    rb"\builtin alias git='git --no-pager'; } || \builtin :"
)
_SILENT = "The shell no longer reported how its commands end, and was killed"

log = logging.getLogger("graftbox.shell")


@dataclass(frozen=True)
class Terms:
    """How the shells of a session are started: candidates in turn, ``NAME=value`` entries, the socket's
    place, and the user if it is another than the server's own.
    """

    name: str
    shells: tuple[str, ...]
    environment: tuple[bytes, ...]
    socket: Path
    user: int | None = None


class Shell:
    """A bash in a tmux session that is started, and started again, whenever a command needs it."""

    def __init__(self, tmux: Tmux, terms: Terms, output: Log, cwd: str, columns: int, rows: int) -> None:
        self.tmux = tmux
        self.terms = terms
        self.log = output
        self.cwd = cwd
        self.columns, self.rows = columns, rows
        self.pane: Pane | None = None
        self.running: Command | None = None
        self.death: Death | None = None
        self.nonce = ""
        self.place = ""
        self.last_status = 0
        self.number = 0
        self.on_change: Callable[[], None] = lambda: None
        self.starting = asyncio.Lock()
        self.held = False
        output.on_progress = self._acknowledge_late

    @property
    def ready(self) -> bool:
        return self.pane is not None and not self.pane.dead and bool(self.place)

    async def start(self) -> None:
        """Have a shell that is ready; raises `UnsupportedError` when none of the candidates comes up."""
        async with self.starting:
            if self.ready:
                return
            reasons = []
            for path in self.terms.shells:
                for options in ((), ("--norc",)):
                    try:
                        await self._launch(path, options)
                    except (TmuxError, TimeoutError) as error:
                        reasons.append(f"{' '.join((path, *options))}: {str(error) or 'no answer'}")
                        log.warning("A shell did not start: %s", reasons[-1])
                    else:
                        return
            raise UnsupportedError(
                f"No shell could be started ({'; '.join(reasons)}); name a bash with --shell."
            )

    async def _launch(self, path: str, options: tuple[str, ...]) -> None:
        await self.hang_up()
        self.nonce = os.urandom(8).hex()
        self.last_status = 0
        self.number += 1
        command = Command("", self.number, self.log)
        self.running = command
        argv = (path, "--noediting", *options, "-i")
        program = Program(argv, self.cwd, self.terms.environment, self.columns, self.rows)
        # A dot or colon means something else to tmux.
        place = f"{self.terms.name.replace('.', '_')}-{self.nonce[:6]}"
        file = self.log.descriptor, self.log.end
        try:
            pane = await self.tmux.open(place, program, self.nonce, self.terms.socket, file, self)
            pane.command(
                command.number,
                # A ~/.bashrc with `set -o vi` turns line editing on again, which shows what it reads.
                b"\\builtin set +o vi; \\builtin set +o emacs +o history +H; PS1= PS2=; %s; %s\n"
                % (_NO_PAGER, self._report_line(b"Z", command.number)),
            )
            async with asyncio.timeout(READY_SECONDS):
                ended = await command.done
            if isinstance(ended, Death):
                raise TmuxError(str(ended))
        except BaseException:
            await self.hang_up()
            raise
        finally:
            self.running = None
        self.place = place
        self.cwd = ended.cwd
        self.on_change()

    async def adopt(self, connection: socket.socket, hello: Hello, command: Command | None) -> None:
        """Take up the shell that a former server has left, and ``command`` if it runs in it."""
        self.number = hello.number
        if command is not None and not command.heard and command.number == hello.number:
            command.on_end = self._ended
            self.running = command
        pane = await connected(connection, hello, self)
        # The answer comes after all that the keeper has to tell of the command.
        await pane.foreground()

    async def run(self, text: str, cwd: str | None = None, env: Mapping[str, str] | None = None) -> Command:
        """Start the command ``text`` (which must not contain NUL); only when nothing else is running."""
        await self.start()
        assert self.pane is not None
        self.number += 1
        command = self.running = Command(text, self.number, self.log)
        command.on_end = self._ended
        self.on_change()
        self.pane.command(command.number, self._lines(command, _apart(text, cwd, env or {})))
        return command

    def _ended(self) -> None:
        self.running = None
        self.on_change()

    async def type(self, text: str) -> None:
        """Type a line for the running command; one that has no terminal any more has also ended."""
        await self.write(text.replace("\n", "\r").encode("utf-8", "surrogatepass") + b"\r")

    async def write(self, data: bytes) -> None:
        """Bytes as a keyboard sends them."""
        await self._begun()
        if self.pane is not None:
            self.pane.type(data)

    async def press(self, key: str) -> None:
        """Press a key by tmux's name for it."""
        await self._begun(SETTLING_SECONDS)
        if self.pane is None:
            return
        if len(key) == 3 and key.startswith("C-") and "@" <= key[2].upper() <= "_":
            self.pane.type(bytes([ord(key[2].upper()) & 0x1F]))
        else:
            # tmux's keys come to the keeper by another way: what was typed before is to be there first.
            await self.pane.foreground()
            with suppress(TmuxError):
                await self.tmux.press(self.place, key)

    async def _begun(self, settling: float = 0.0) -> None:
        """What is typed for a command must not reach the shell before it has taken the command.

        A Ctrl-C between the shell's fork of a program and its passing on of the terminal is lost on both:
        ``settling`` lets that moment go by.
        """
        if self.running is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEGIN_SECONDS):
                    await self.running.begun.wait()
            early = self.running.begun_at + settling - time.monotonic() if self.running else 0.0
            if early > 0:
                await asyncio.sleep(early)

    async def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        if self.pane is not None and self.ready:
            self.pane.resize(columns, rows)
            with suppress(TmuxError):
                await self.tmux.resize(self.place, columns, rows)

    async def signal(self, number: int) -> list[int]:
        """Signal the terminal's foreground process group; its pids, none when there is no such group."""
        group = await self.pane.foreground() if self.pane is not None else 0
        if not group:
            return []
        pids = await asyncio.to_thread(processes.of_group, group)
        # All at once where they may all get it: one that ends first can take its neighbours' reasons away.
        if group > 1 and processes.send(0, pids, self.terms.user) == pids:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            return pids
        return processes.send(number, pids, self.terms.user)

    async def close(self) -> None:
        """End the shell and everything in its terminal's session."""
        if self.pane is not None:
            if not self.pane.gone.done():
                await asyncio.to_thread(processes.kill_session, self.pane.hello.shell, self.terms.user)
            self._fail(Death(None, "The session was closed"))
            await self.hang_up()

    async def hang_up(self) -> None:
        """Take the terminal away, and have no keeper that could still write into the log."""
        self.place = ""
        pane, self.pane = self.pane, None
        if pane is None or pane.gone.done():
            return
        pane.close()
        try:
            async with asyncio.timeout(2):
                await pane.gone
        except TimeoutError:
            processes.send(signal.SIGKILL, [pane.hello.keeper], self.terms.user)
            pane.transport.abort()

    # -- what the shell is told

    def _lines(self, command: Command, text: str) -> bytes:
        number = command.number
        body = b"\\builtin eval -- " + ansi_c(text) + b" 0<&100 100<&- 101<&-"
        if self.last_status:
            # The command must find $? as its predecessor left it; a condition does not trip `set -e`.
            body = b"if (\\builtin exit %d); then \\builtin :; else %s; fi" % (self.last_status, body)
        begin = b"{ \\builtin printf '%s' >&100; } 2>&-" % self._mark(b"B", number)
        first = b"%s; %s; %s" % (begin, body, self._report_line(b"E", number))
        # A shell that can't report any more (`enable -n printf`) ends, so that a new one can take its place.
        second = b"%s || \\exit 98; PS0= PS1= PS2=" % self._report_line(b"Z", number)
        return b"\\unset -f builtin; %s\n%s\n" % (first, second)

    def _mark(self, phase: bytes, number: int) -> bytes:
        return b"\\033]7777;%s;%s%d\\007" % (self.nonce.encode(), phase, number)

    def _report_line(self, phase: bytes, number: int) -> bytes:
        # With 1 and 2 closed neither `set -x` nor a DEBUG trap can add to the output. What bash would say
        # about jobs before its next prompt belongs to this command's output.
        fields = b'%s%d "$?" "${!-}" "${PWD-}" "${PATH-}"' % (phase, number)
        report = b"\\builtin printf '%%s\\0' %s >&101" % fields
        news = b"\\builtin printf '%s' >&100; \\builtin jobs -n >&100" % self._mark(b"J", number)
        mark = b"\\builtin printf '%s' >&100" % self._mark(phase, number)
        return b"{ %s; \\unset -f builtin; %s; %s; } >&- 2>&-" % (report, news, mark)

    # -- what the keeper says (pane.Listener)

    def attached(self, pane: Pane) -> None:
        self.pane = pane

    def marked(self, phase: str, number: int, offset: int) -> None:
        self.log.advance(offset)
        if (command := self.running) and command.number == number:
            command.marked(phase, offset)

    def advanced(self, end: int) -> None:
        self.log.advance(end)
        if self.running:
            self.running.advanced()
        self.held = True
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Let the terminal go on, unless a reader of the log is far behind."""
        if self.pane is None or not self.held:
            return
        if self.log.lag > self.log.capacity // 2:
            # A reader that does not read on is waited for no longer.
            asyncio.get_running_loop().call_later(1.0, self._acknowledge)
            return
        self.held = False
        self.pane.acknowledge(self.log.end)

    def _acknowledge_late(self) -> None:
        if self.held:
            self._acknowledge()

    def reported(self, fields: Sequence[bytes]) -> None:
        command = self.running
        if len(fields) != _FIELDS or command is None or fields[0][1:] != str(command.number).encode():
            return
        name, status, background, cwd, path = fields
        where = os.fsdecode(cwd)
        pid = int(background) if background.isdigit() else -1
        if not command.reported_by:
            self.last_status = int(status)
            self.cwd = where if where.startswith("/") else self.cwd
        command.reported(name[:1].decode(), Report(int(status), pid, where, os.fsdecode(path)))

    def silent(self) -> None:
        if self.pane is not None:
            processes.send(signal.SIGKILL, [self.pane.hello.shell], self.terms.user)
            self.pane.close()
        self._fail(Death(None, _SILENT))

    def died(self, status: int | None) -> None:
        if status is None:
            self.log.advance(ring.header(self.log.descriptor)[2])
        elif self.pane is not None:
            self.pane.close()
        self._fail(Death(status))

    def _fail(self, death: Death) -> None:
        running = self.running
        if running is None:
            self.death = death
            self.on_change()
        else:
            running.died(death)


def _apart(text: str, cwd: str | None, env: Mapping[str, str]) -> str:
    """``text`` with a folder and variables of its own: in a subshell, so that nothing of them stays."""
    if cwd is None and not env:
        return text
    steps = [f"\\builtin cd -- {_word(cwd)}"] if cwd is not None else []
    steps += [f"\\builtin export {name}={_word(value)}" for name, value in env.items()]
    return f"({' && '.join(steps)} && \\builtin eval -- {_word(text)})"


def _word(text: str) -> str:
    return ansi_c(text).decode("utf-8", "surrogatepass")

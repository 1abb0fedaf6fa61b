"""The model's rules for one shell: when an answer is given, and in which words.

A command that is silent for too long, or runs longer than its timeout, is answered with what it has printed
so far and goes on running; the next actions read on, feed it or interrupt it. Source: the OpenHands action
execution server's bash session, whose texts clients show to their language models.
"""

from __future__ import annotations

import asyncio
import os
import time

from graftbox.server.command import HEAD, Command, Death, Report
from graftbox.server.commands import split_commands
from graftbox.server.environment import find_program
from graftbox.server.shell import Shell
from graftbox.server.terminal import render
from graftbox.wire.actions import Run
from graftbox.wire.observations import (
    CONTINUES,
    NOTHING_TO_FEED,
    NOTHING_TO_READ,
    TRUNCATED,
    WAITING,
    CommandMetadata,
    Failure,
    RunResult,
    several_commands,
)

SCROLLBACK = 10_012
"""Lines that the model's terminal holds: its history and a part of its screen."""
FORGOTTEN = "[Previous command outputs are truncated. Showing the last {} lines of the output below.]\n"
_BIG = 64 * 1024
# A visible answer shows 30 000 characters; more raw bytes than this are rendered for nothing.
_VISIBLE = 512 * 1024


def is_key(text: str) -> bool:
    """Whether ``text`` names a key, as ``C-c``, rather than being text to type."""
    return len(text) == 3 and text.startswith("C-")


class Conversation:
    """Actions of one client on one shell; strictly one at a time."""

    def __init__(self, shell: Shell, silence: float, user: str) -> None:
        self.shell = shell
        self.silence = silence
        self.user = user
        self.current: Command | None = None
        self.spoke = False
        self.turn = asyncio.Lock()

    async def run(self, action: Run, *, interrupt: bool = False) -> RunResult | Failure:
        """Do ``action`` after those before it, and answer as the model does.

        With ``interrupt`` a caller that is cancelled takes its command along, by Ctrl-C.
        """
        async with self.turn:
            try:
                return await self._run(action, action.command.strip())
            except asyncio.CancelledError:
                if interrupt and self.current is not None and not self.current.done.done():
                    await self.shell.press("C-c")
                raise

    async def _run(self, action: Run, command: str) -> RunResult | Failure:
        if "\0" in command:
            return Failure("ERROR: The command holds a NUL character, which no shell command can.")
        key = is_key(command)
        if self.current is None and self.shell.running is not None:
            # Given to the shell by another way.
            self.current = self.shell.running
        if self.current is None:
            if not command:
                return RunResult(NOTHING_TO_READ, "", hidden=action.hidden)
            if action.is_input or key:
                return RunResult(NOTHING_TO_FEED, "", hidden=action.hidden)
        finished = self.current is not None and self.current.done.done()
        if not command or (action.is_input and finished):
            return await self._wait(action, command, unsent=bool(command))
        if action.is_input:
            await (self.shell.press(command) if key else self.shell.type(command))
            return await self._wait(action, command)
        if not key and len(commands := split_commands(command)) > 1:
            return several_commands(commands)
        if self.current is not None and not finished:
            suffix = (
                f'\n[Your command "{command}" is NOT executed. The previous command is still running - You '
                "CANNOT send new commands until the previous command is completed. By setting `is_input` to "
                f"`true`, you can interact with the current process: {WAITING}]"
            )
            return await self._unfinished(action, command, suffix)
        if key:
            return await self._wait(action, command, unsent=True)
        return await self._begin(action, command)

    async def _begin(self, action: Run, command: str) -> RunResult | Failure:
        await self.shell.start()
        before, self.shell.death = self.shell.death, None
        self.spoke = False
        self.current = await self.shell.run(command)
        note = f"[{before}; this is a new shell in {self.shell.cwd}.]\n" if before else ""
        return await self._wait(action, command, note=note)

    async def _wait(self, action: Run, command: str, *, unsent: bool = False, note: str = "") -> RunResult:
        """Answer when the command ends, falls silent or runs out of time."""
        running = self.current
        assert running is not None
        start = time.monotonic()
        while not running.done.done():
            now = time.monotonic()
            limits = []
            if not action.blocking:
                limits.append(max(start, running.last_output) + self.silence)
            if action.timeout is not None:
                limits.append(start + action.timeout)
            if limits and now >= min(limits):
                break
            await asyncio.wait({running.done}, timeout=min(limits) - now if limits else None)
        if running.done.done():
            return await self._finished(action, command, running.done.result(), unsent=unsent, note=note)
        if action.timeout is not None and time.monotonic() >= start + action.timeout:
            reason = f"The command timed out after {action.timeout} seconds."
        else:
            reason = f"The command has no new output after {self.silence:g} seconds."
        return await self._unfinished(action, command, f"\n[{reason} {WAITING}]", note)

    async def _unfinished(self, action: Run, command: str, suffix: str, note: str = "") -> RunResult:
        prefix = note or (CONTINUES if self.spoke else "")
        content = await self._take(action, command)
        return RunResult(content, command, CommandMetadata(prefix=prefix, suffix=suffix), action.hidden)

    async def _finished(
        self, action: Run, command: str, ended: Report | Death, *, unsent: bool, note: str
    ) -> RunResult:
        content = await self._take(action, command)
        if not action.hidden:
            forgotten, content = _remembered(content)
            note += forgotten
        self.current = None
        if isinstance(ended, Death):
            self.shell.death = None
            suffix = f"\n[{ended}. The next command runs in a new shell in {self.shell.cwd}.]"
            metadata = CommandMetadata(
                exit_code=ended.exit_code,
                username=self.user,
                hostname=_host_name(),
                working_dir=self.shell.cwd,
                prefix=note,
                suffix=suffix,
            )
            return RunResult(content, command, metadata, action.hidden)
        said = ""
        if unsent:
            said = " It had already ended: your input was NOT sent."
        elif is_key(command):
            said = f" CTRL+{command[-1].upper()} was sent."
        metadata = CommandMetadata(
            exit_code=ended.status,
            pid=ended.background,
            username=self.user,
            hostname=_host_name(),
            working_dir=ended.cwd,
            py_interpreter_path=find_program("python", ended.path, ended.cwd) or "",
            prefix=note,
            suffix=f"\n[The command completed with exit code {ended.status}.{said}]",
        )
        return RunResult(content, command, metadata, action.hidden)

    async def _take(self, action: Run, command: str) -> str:
        """The text since the last answer, without the echo of what was typed for it."""
        assert self.current is not None
        limit = HEAD if action.hidden else _VISIBLE
        if self.current.log.end - self.current.taken <= _BIG:
            text = _text(self.current, limit, self.shell)
        else:
            text = await asyncio.to_thread(_text, self.current, limit, self.shell)
        if action.is_input and not is_key(command):
            echo, newline, rest = text.partition("\n")
            if echo.strip() == command:
                text = rest if newline else ""
        text = text.rstrip()
        self.spoke = self.spoke or bool(text)
        self.current.heard = self.current.done.done()
        self.shell.on_change()
        return text


def _remembered(content: str) -> tuple[str, str]:
    """What the model's terminal would still hold of an output, and the note that clients know it by."""
    if content.count("\n") < SCROLLBACK:
        return "", content
    recent = "\n".join(content.rsplit("\n", SCROLLBACK)[1:])
    # Where even more was left out for its size.
    recent = recent.rpartition(TRUNCATED)[2]
    return FORGOTTEN.format(recent.count("\n") + 2), recent


def _host_name() -> str:
    return os.uname().nodename.partition(".")[0]


def _text(command: Command, limit: int, shell: Shell) -> str:
    head, tail, dropped = command.take(limit)
    if not dropped:
        return render(head + tail, shell.columns, shell.rows)
    # Cut at line ends, so that no character and no control sequence is cut in two.
    head = head[: head.rfind(b"\n") + 1] or head
    tail = tail[tail.find(b"\n") + 1 :]
    return render(head).rstrip("\n") + TRUNCATED + render(tail, shell.columns, shell.rows)

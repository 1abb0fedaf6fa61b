"""Commands that were given to sessions through /v1: found again by their id, interrupted when time is up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import OrderedDict
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from graftbox.errors import GraftboxError, NotFoundError
from graftbox.server.command import Death

if TYPE_CHECKING:
    from graftbox.server.log import Log
    from graftbox.server.sessions import Session

KEPT = 200
"""Commands remembered of each session."""
GRACE = 2.0
"""Seconds that a command gets after C-c, and again after SIGTERM, before the next stronger means."""


class Call:
    """One command in a session. ``timed_out``: it was interrupted because its time was up."""

    def __init__(self, session: Session, text: str) -> None:
        self.session = session
        self.text = text
        self.timed_out = False
        self.stopping: asyncio.Task[None] | None = None

    async def start(self, cwd: str | None, env: dict[str, str], timeout: float | None) -> None:
        """Raises what `Session.start` raises."""
        self.command = await self.session.start(self.text, cwd=cwd, env=env or None)
        known = _calls.setdefault(self.session, OrderedDict())
        known[self.command.id] = self
        while len(known) > KEPT:
            known.popitem(last=False)
        if timeout is not None:
            deadline = asyncio.get_running_loop().call_later(timeout, self._expire)
            self.command.done.add_done_callback(lambda _: deadline.cancel())

    @property
    def running(self) -> bool:
        return not self.command.done.done()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; that of the shell where that has ended with it."""
        if self.running:
            return None
        result = self.command.done.result()
        return result.exit_code if isinstance(result, Death) else result.status

    async def ended(self) -> None:
        await asyncio.wait([self.command.done])

    def _expire(self) -> None:
        self.timed_out = True
        self.stop()

    def stop(self) -> None:
        """Interrupt it as a person would, then with more force."""
        if self.stopping is None:
            self.stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if not self.running:
                return
            with contextlib.suppress(GraftboxError):
                if number == signal.SIGINT:
                    await self.session.press("C-c")
                else:
                    await self.session.signal(number)
            await asyncio.wait([self.command.done], timeout=GRACE)

    async def output(self, offset: int, limit: int) -> AsyncGenerator[tuple[int, bytes]]:
        """Offset and bytes of its own output from ``offset`` on, until it is over."""
        log = self.session.log
        position = max(offset, self.command.start)
        while True:
            end = self.command.end
            size = limit if end is None else min(limit, end - position)
            found, data = read(log, position, size) if size > 0 else (position, b"")
            if data:
                yield found, data
                position = found + len(data)
            elif not self.running or log.closed:
                return
            else:
                await self._news(log, max(position, self.command.start))

    async def _news(self, log: Log, position: int) -> None:
        """Return when there is more to read, or the command is over."""
        waiting = asyncio.ensure_future(log.wait(position))
        try:
            events: set[asyncio.Future[Any]] = {waiting, self.command.done}
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()


_calls: WeakKeyDictionary[Session, OrderedDict[str, Call]] = WeakKeyDictionary()


def find(session: Session, name: str) -> Call:
    """Raises `NotFoundError`."""
    try:
        return _calls[session][name]
    except KeyError:
        raise NotFoundError(f"The session {session.name} has no command {name}.") from None


def read(log: Log, offset: int, limit: int) -> tuple[int, bytes]:
    """What is in ``log`` from ``offset`` on, or from the oldest byte kept, and where that stands."""
    data = log.read(offset, limit)
    return max(offset, log.start) if data else offset, data


async def follow(log: Log, offset: int, limit: int) -> AsyncGenerator[tuple[int, bytes]]:
    """Offset and bytes of all that the terminal shows, as it comes."""
    while not log.closed:
        found, data = read(log, offset, limit)
        if data:
            yield found, data
            offset = found + len(data)
        else:
            await log.wait(offset)

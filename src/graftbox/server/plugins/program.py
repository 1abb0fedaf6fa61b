"""The program of a plugin while it runs: its output, its readiness, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from graftbox.server.kernel.process import Plan, Process, how_it_ended

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""
KEPT = 256 * 1024
"""Bytes of output."""
_GUARD = str(Path(__file__).with_name("guard.py"))
_SLOWEST = 0.2


class EndedError(Exception):
    """It has ended before it was ready; the text says how."""


class Journal:
    """What a plugin has printed, over all of its starts: the newest part, addressed by offsets."""

    def __init__(self) -> None:
        self.start = 0
        self.kept = b""
        self.grown = asyncio.Event()

    @property
    def end(self) -> int:
        return self.start + len(self.kept)

    def append(self, data: bytes) -> None:
        whole = self.kept + data
        self.kept = whole[-KEPT:]
        self.start += len(whole) - len(self.kept)
        self.grown.set()
        self.grown = asyncio.Event()

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most ``limit`` bytes from ``offset``, or from `start` where that is later, and their offset."""
        offset = max(offset, self.start)
        return offset, self.kept[offset - self.start : offset - self.start + limit]

    async def beyond(self, offset: int) -> None:
        """Wait until there is something after ``offset``."""
        while self.end <= offset:
            await self.grown.wait()


class Program(Process):
    """A started program with everything that it starts; ``ended`` resolves to its status."""

    def __init__(self, argv: Sequence[str], plan: Plan, journal: Journal) -> None:
        self.journal = journal
        self.first = journal.end
        super().__init__([sys.executable, "-ISB", "-Xutf8", _GUARD, *argv], plan, plan.cwd)

    def hear(self, data: bytes) -> None:
        self.journal.append(data)

    async def until(self, *, line: str, probe: Callable[[], asyncio.Future[bool]] | None) -> None:
        """Wait until its output has ``line``, if that is not empty, and ``probe`` says yes.

        Raises `EndedError` when it ends before.
        """
        ready = asyncio.ensure_future(self._until(line, probe))
        try:
            await asyncio.wait({ready, self.ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise EndedError(self.how())
            ready.result()
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _until(self, line: str, probe: Callable[[], asyncio.Future[bool]] | None) -> None:
        while line and line.encode() not in self._said():
            await self.journal.grown.wait()
        # Nothing tells when another process has begun to listen.
        pause = 0.01
        while probe is not None and not await probe():
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST)

    def how(self) -> str:
        """How it has ended, with its last words."""
        lines = self._said().decode("utf-8", "replace").strip().splitlines()
        return how_it_ended(self.ended.result()) + (f" ({lines[-1][:300]})" if lines else "")

    def _said(self) -> bytes:
        return self.journal.read(self.first, KEPT)[1]

    async def end(self) -> None:
        """SIGTERM for the program and its group; what is left of it after a while is killed."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM)
        await asyncio.wait({self.ended}, timeout=GRACE)
        self.lifeline.close()
        # The guard kills what has left its group; should it be gone or stopped itself, we do what we can.
        await asyncio.wait({self.ended}, timeout=GRACE)
        self.kill()
        await asyncio.wait({self.ended})

"""What a session's terminal has shown: bytes with offsets that never start again, the newest of them kept.

The keeper (keeper.py) writes the file; here it is read.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from graftbox.server import ring

CAPACITY = 64 * 1024 * 1024
PATIENCE = 5.0
"""Seconds for which the terminal waits for a reader that does not read on."""
_SHARE = 32


class Log:
    """``start`` is the oldest offset that can be read, ``end`` the next one to come.

    Bytes are as the terminal got them (a newline of a program arrives as CR LF), our own marks removed.
    """

    def __init__(self, descriptor: int, end: int = 0) -> None:
        self.descriptor = descriptor
        self.start = 0
        self.end = end
        self.closed = False
        self.on_progress: Callable[[], None] = lambda: None
        self._waiting: set[asyncio.Future[None]] = set()
        self._readers: dict[int, float] = {}
        self._measure()

    @classmethod
    def create(cls, path: Path) -> Log:
        """A new log, of 64 MiB or a thirty-second part of what the file system has left."""
        free = os.statvfs(path.parent)
        return cls(ring.create(str(path), min(CAPACITY, free.f_bavail * free.f_frsize // _SHARE)))

    def read(self, offset: int, limit: int = 65536) -> bytes:
        """At most ``limit`` bytes from ``offset``; from `start` where that has passed ``offset`` by. Empty
        at the end.
        """
        data = self.peek(offset, limit)
        self._note(offset, max(offset, self.start) + len(data))
        return data

    def peek(self, offset: int, limit: int) -> bytes:
        """As `read`, without being a reader whom the terminal waits for."""
        while not self.closed:
            offset = max(offset, self.start)
            size = min(limit, self.end - offset)
            if size <= 0:
                break
            data, start = ring.read(self.descriptor, offset, size)
            if start <= offset:
                # A keeper that another user has meddled with may promise what is not there.
                return data or bytes(min(size, 4096))
            self.start = min(self.end, start + self.slack)
        return b""

    async def wait(self, offset: int) -> None:
        """Return once ``end > offset`` or the log is closed.

        Whoever reads on and on is a reader: the terminal is held back for it, as any terminal is for a slow
        line, so that it misses nothing.
        """
        self._note(offset, offset)
        while self.end <= offset and not self.closed:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)

    def _note(self, offset: int, now_at: int) -> None:
        """The reader that had come to ``offset`` has come further."""
        self._readers.pop(offset, None)
        self._readers[now_at] = time.monotonic()
        self.on_progress()

    @property
    def lag(self) -> int:
        """Bytes between the slowest reader that still reads and the end."""
        recent = time.monotonic() - PATIENCE
        for offset in [offset for offset, seen in self._readers.items() if seen < recent]:
            del self._readers[offset]
        return self.end - min(self._readers) if self._readers else 0

    def advance(self, end: int) -> None:
        """There are bytes up to ``end`` now."""
        if end <= self.end:
            return
        self.end = end
        self._measure()
        self._wake()

    def close(self) -> None:
        """No more bytes will come, and none can be read; whoever waits is woken."""
        if not self.closed:
            self.closed = True
            os.close(self.descriptor)
            self._wake()

    def _measure(self) -> None:
        self.capacity, start, reserved = ring.header(self.descriptor)
        # The keeper may be ahead of what it has told.
        self.slack = self.capacity // 4 + 2 * ring.HEADER
        self.start = min(self.end, max(self.start, start, reserved - self.capacity, self.end - self.capacity))

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

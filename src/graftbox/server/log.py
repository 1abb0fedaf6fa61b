"""What a session's terminal has shown: bytes with offsets that never start again, the newest of them kept."""

from __future__ import annotations

import asyncio

CAPACITY = 64 * 1024 * 1024


class Log:
    """``start`` is the oldest offset still kept, ``end`` the next one to come.

    Bytes are as the terminal got them (a newline of a program arrives as CR LF), our own marks removed.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.start = 0
        self.data = bytearray()
        self.closed = False
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def read(self, offset: int, limit: int = 65536) -> bytes:
        """At most ``limit`` bytes from ``offset``; from `start` where that has passed ``offset`` by. Empty
        at the end.
        """
        position = max(0, offset - self.start)
        return bytes(self.data[position : position + limit])

    async def wait(self, offset: int) -> None:
        """Return once ``end > offset`` or the log is closed.

        A caller that waits again and again with the offset up to which it has read is a reader: the terminal
        is held back for it, like any terminal for a slow line, so that it misses nothing.
        """
        while self.end <= offset and not self.closed:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)

    def append(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > 2 * self.capacity:
            cut = len(self.data) - self.capacity
            del self.data[:cut]
            self.start += cut
        self._wake()

    def close(self) -> None:
        """No more bytes will come; whoever waits is woken."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

"""A request's body as a file that a thread reads from, for formats that only know how to pull."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

T = TypeVar("T")


class Feed(io.RawIOBase):
    """``stream`` belongs to the event loop that this is made in; `read` is called on another thread.

    The reader waits for the client, and so holds its thread: whoever uses it bounds how many there are.
    ``size`` counts the bytes handed out. What the stream raises, the reader gets.
    """

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self.stream = stream
        self.loop = asyncio.get_running_loop()
        self.pending: concurrent.futures.Future[bytes] | None = None
        self.left = b""
        self.size = 0
        self.ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self.left and not self.ended:
            self.pending = asyncio.run_coroutine_threadsafe(self._next(), self.loop)
            self.left = self.pending.result()
        data, self.left = (self.left, b"") if size < 0 else (self.left[:size], self.left[size:])
        self.size += len(data)
        return data

    async def _next(self) -> bytes:
        try:
            return await anext(self.stream)
        except StopAsyncIteration:
            self.ended = True
            return b""

    async def using(self, work: Awaitable[T]) -> T:
        """The result of ``work``, which reads this; a cancellation ends the reading too."""
        try:
            return await work
        finally:
            self.ended = True
            if self.pending:
                self.pending.cancel()

"""One output stream of a background command: read as it comes, kept in a spool, followed by readers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import termios
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

from graftbox.server.aside import aside
from graftbox.server.spool import Spool

_CHUNK = 256 * 1024
_PIPE = 256 * 1024
# Read by one visit of a thread, so that commands with much output take turns.
_VISIT = 8 * 1024 * 1024


class Output:
    """One stream of one command: the reading end of its pipe, and the spool that it fills."""

    def __init__(self, pipe: int, spool: Spool, threads: ThreadPoolExecutor) -> None:
        self.pipe = pipe
        self.spool = spool
        self.threads = threads
        self.closed = asyncio.Event()
        self.finished = False
        self.loop = asyncio.get_running_loop()
        self.pouring: asyncio.Future[bool] | None = None
        self.followers: dict[object, int] = {}
        self.waiting: set[asyncio.Future[None]] = set()
        os.set_blocking(pipe, False)
        self.loop.add_reader(pipe, self._readable)

    @property
    def end(self) -> int:
        return self.spool.end

    def _readable(self) -> None:
        """Take what is there: a little at once, much on a thread that may wait for the disk."""
        try:
            data = os.read(self.pipe, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
        elif self.spool.has_room(len(data)):
            self.spool.append(data)
            self._wake()
        else:
            self.loop.remove_reader(self.pipe)
            self.pouring = aside(self.threads, self._pour, data)
            self.pouring.add_done_callback(self._poured)

    def _pour(self, data: bytes) -> bool:
        """Move what the pipe holds to the spool; says whether more may come."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        room = bytearray(_CHUNK)
        view = memoryview(room)
        self.spool.append(data)
        moved = 0
        while moved < _VISIT and not self._held_back():
            if self.waiting:
                self.loop.call_soon_threadsafe(self._wake)
            try:
                size = os.readv(self.pipe, [room])
            except BlockingIOError:
                return True
            except OSError:
                return False
            if size == 0:
                return False
            self.spool.append(view[:size])
            moved += size
        return True

    def _poured(self, done: asyncio.Future[bool]) -> None:
        self.pouring = None
        if not self.open:
            self._release()
        elif done.cancelled() or not done.result():
            self._close()
        elif not self._held_back():
            self.loop.add_reader(self.pipe, self._readable)
        self._wake()

    def _held_back(self) -> bool:
        """Whether more output would overtake one who follows it."""
        behind = min(self.followers.values(), default=self.spool.end)
        return self.spool.end - behind > self.spool.segment

    def _wake(self) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(None)

    def _advance(self, follower: object, offset: int | None) -> None:
        """Note how far a follower is, None: gone; the command may go on."""
        before = self._held_back()
        if offset is None:
            self.followers.pop(follower, None)
        else:
            self.followers[follower] = offset
        if before and not self._held_back() and self.open and self.pouring is None:
            self.loop.add_reader(self.pipe, self._readable)

    @property
    def open(self) -> bool:
        return not self.closed.is_set()

    def _close(self) -> None:
        """No more is read."""
        if self.open:
            self.closed.set()
            self.loop.remove_reader(self.pipe)
            # A thread that still reads from it must be done first.
            if self.pouring is None:
                self._release()
            self._wake()

    def _release(self) -> None:
        os.close(self.pipe)
        self.spool.finish()

    async def forget(self) -> None:
        """Give up the pipe and all that it brought."""
        self._close()
        if self.pouring is not None:
            await asyncio.wait([self.pouring])
        if self.spool.on_disk:
            await aside(self.threads, self.spool.close)
        else:
            self.spool.close()

    async def settle(self) -> None:
        """Return when everything that is in the pipe now has been read."""
        target: int | None = None
        while self.open and (target is None or self.spool.end < target):
            if self.pouring is not None:
                await asyncio.wait([self.pouring])
                continue
            if target is None:
                left = fcntl.ioctl(self.pipe, termios.FIONREAD, b"\0\0\0\0")
                target = self.spool.end + int.from_bytes(left, "little")
            self._readable()
            await asyncio.sleep(0)
        if self.open and self.pouring is None:
            # The end of the stream has to be read too.
            self._readable()

    def finish(self) -> None:
        """The command itself is over; what it has left behind may go on writing."""
        self.finished = True
        self._wake()

    async def wait(self, offset: int, *, to_the_last: bool = True) -> None:
        """Return once there is something from ``offset`` on, or never will be.

        Not ``to_the_last``: from the command itself.
        """
        while self.spool.end <= offset and self.open and (to_the_last or not self.finished):
            future = self.loop.create_future()
            self.waiting.add(future)
            try:
                await future
            finally:
                self.waiting.discard(future)

    async def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """As `Spool.read`, off the loop where the disk is asked."""
        if not self.spool.on_disk:
            return self.spool.read(offset, limit)
        return await aside(self.threads, self.spool.read, offset, limit)

    async def follow(self, offset: int, limit: int = _CHUNK) -> AsyncGenerator[tuple[int, bytes]]:
        """Offset and bytes as they come, until the command is over; holds it back meanwhile."""
        follower = object()
        try:
            while True:
                self._advance(follower, offset)
                found, data = await self.read(offset, limit)
                if data:
                    yield found, data
                    offset = found + len(data)
                elif (self.finished or not self.open) and self.spool.end <= offset:
                    return
                else:
                    await self.wait(offset, to_the_last=False)
        finally:
            self._advance(follower, None)

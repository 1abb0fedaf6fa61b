"""A child process that speaks in lines, with the end of what it writes to its standard error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, cast

from graftbox.server import oom

MAX_LINE = 64 * 1024 * 1024
"""Bytes of one message."""
ERRORS_KEPT = 4096
_BUFFER = 1024 * 1024
GRACE = 2.0
"""Seconds that a process has to end after its input is closed, and again after SIGTERM."""


class LineTooLongError(Exception):
    """The process has written more than `MAX_LINE` bytes without a line end."""


class LineProcess(asyncio.SubprocessProtocol):
    """``returncode`` is known as soon as the process has ended, whoever still holds its pipes."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self._output = bytearray()
        self._searched = 0
        self._errors = bytearray()
        self._closed = False
        self._paused = False
        self._ready = asyncio.Event()
        self._exited = asyncio.Event()
        self._said_all = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[bytes, bytes], cwd: str, user: dict[str, Any]
    ) -> LineProcess:
        """Start it as the leader of a process group; ``user``: further arguments for `subprocess.Popen`.

        Raises `OSError` when it can't be executed, `ValueError` when a word holds a NUL.
        """
        _, protocol = await asyncio.get_running_loop().subprocess_exec(
            cls,
            *argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=cwd,
            start_new_session=True,
            **user,
        )
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self.transport.get_pid()
        oom.offer(self.pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._errors += data
            del self._errors[:-ERRORS_KEPT]
            return
        self._output += data
        if len(self._output) > _BUFFER and b"\n" in data:
            self._pause()
        self._ready.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._end()
        elif fd == 0:
            self._writable.set()
        else:
            self._said_all.set()

    def process_exited(self) -> None:
        self.returncode = self.transport.get_returncode()
        self._exited.set()
        # What it wrote is in the pipe still; what its children may write does not matter any more.
        asyncio.get_running_loop().call_later(0.1, self._end)
        self._signal(signal.SIGTERM)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    @property
    def errors(self) -> str:
        """The last lines that it wrote to its standard error."""
        text = bytes(self._errors).decode("utf-8", "replace").strip()
        return text.partition("\n")[2] if len(self._errors) == ERRORS_KEPT else text

    def _end(self) -> None:
        self._closed = True
        self._ready.set()
        self._writable.set()

    def _pause(self) -> None:
        pipe = cast("asyncio.ReadTransport | None", self.transport.get_pipe_transport(1))
        if pipe is not None and pipe.is_reading():
            pipe.pause_reading()
            self._paused = True

    def _resume(self) -> None:
        pipe = cast("asyncio.ReadTransport | None", self.transport.get_pipe_transport(1))
        if self._paused and pipe is not None and not pipe.is_closing():
            pipe.resume_reading()
        self._paused = False

    async def lines(self) -> list[bytes]:
        """The lines that have come since the last call, at least one; none at the end of the output."""
        while True:
            last = self._output.rfind(b"\n", self._searched)
            if last >= 0:
                head = bytes(self._output[:last])
                del self._output[: last + 1]
                self._searched = 0
                self._resume()
                return head.split(b"\n")
            self._searched = len(self._output)
            if len(self._output) > MAX_LINE:
                raise LineTooLongError
            if self._closed:
                return []
            self._ready.clear()
            await self._ready.wait()

    async def write(self, data: bytes) -> None:
        """Send ``data``; what an ended process can't take is dropped."""
        pipe = cast("asyncio.WriteTransport | None", self.transport.get_pipe_transport(0))
        if pipe is not None and not pipe.is_closing():
            pipe.write(data)
        await self._writable.wait()

    async def stop(self) -> None:
        """Close its input, then end it and its whole group: by SIGTERM, by SIGKILL if need be."""
        if (pipe := self.transport.get_pipe_transport(0)) is not None:
            pipe.close()
        if not await _happens(self._exited, GRACE):
            self._signal(signal.SIGTERM)
            await _happens(self._exited, GRACE)
        elif self._signal(0):
            # It is gone and its children, told to end when it went, are not yet.
            await asyncio.sleep(GRACE)
        self._signal(signal.SIGKILL)
        await _happens(self._exited, GRACE)
        await _happens(self._said_all, 0.1)
        self.transport.close()
        self._end()

    def _signal(self, number: int) -> bool:
        """Signal the process group; whether there is one."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()

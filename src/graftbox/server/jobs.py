"""Background commands: processes without a terminal, whose standard output and error are kept apart.

Each runs in a session, and so a process group, of its own. Its output is read as soon as it comes, whether
anybody asks for it or not, and kept in spools (spool.py). A reader that follows the output holds the command
back, as any slow pipe would, rather than miss something.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.errors import NotFoundError, UsageError
from graftbox.server import oom, runtime
from graftbox.server.aside import aside
from graftbox.server.ending import exit_of
from graftbox.server.environment import Environment, as_mapping
from graftbox.server.limits import Limits
from graftbox.server.spool import Spool
from graftbox.server.stream import Output

if TYPE_CHECKING:
    from graftbox.server.identity import Identity

GRACE = 2.0
"""Seconds between the polite signal and SIGKILL."""


class TooManyError(UsageError):
    """As many commands as may be are running."""

    http_status = 429


@dataclass(frozen=True)
class Order:
    """What to run: ``shown`` is what the user wrote; ``stdin`` None: /dev/null."""

    argv: Sequence[str]
    shown: str | Sequence[str]
    cwd: str
    environment: Sequence[bytes]
    identity: Identity
    stdin: bytes | None = None
    timeout: float | None = None


class Job:
    """One background command. ``ended`` is set once it is over and all that it had written is there."""

    def __init__(
        self, name: str, order: Order, process: subprocess.Popen[bytes], outputs: Mapping[str, Output]
    ):
        self.name = name
        self.order = order
        self.process = process
        self.outputs = outputs
        self.created = time.time()
        self.finished: float | None = None
        self.timed_out = False
        self.code: int | None = None
        self.ended = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.insisting: asyncio.TimerHandle | None = None
        self.deadline = self.loop.call_later(order.timeout, self._expire) if order.timeout else None
        self.watching = self.loop.create_task(self._watch())

    @property
    def running(self) -> bool:
        return not self.ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + n when signal n ended it, as a shell would say."""
        return self.code if self.code is None or self.code >= 0 else 128 - self.code

    @property
    def ended_by(self) -> int | None:
        """The signal that ended it."""
        return -self.code if self.code is not None and self.code < 0 else None

    @property
    def is_silent(self) -> bool:
        """Whether nothing can write to its output any more."""
        return not any(output.open for output in self.outputs.values())

    async def silence(self, seconds: float) -> bool:
        """Whether it `is_silent` within that time."""
        closing = asyncio.gather(*(output.closed.wait() for output in self.outputs.values()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closing, seconds)
        return self.is_silent

    @property
    def size(self) -> int:
        """Bytes of output that are kept."""
        return sum(output.spool.end - output.spool.start for output in self.outputs.values())

    async def _watch(self) -> None:
        self.code = await exit_of(self.process.pid)
        self.finished = time.time()
        if self.deadline:
            self.deadline.cancel()
        await asyncio.gather(*(output.settle() for output in self.outputs.values()))
        self.ended.set()
        for output in self.outputs.values():
            output.finish()
        # Processes that it has left behind may go on writing, and may be sent signals. Until the last of them
        # has closed its output the process stays unreaped, so that nobody else can get its number.
        await asyncio.gather(*(output.closed.wait() for output in self.outputs.values()))
        self.process.wait()
        if self.insisting:
            self.insisting.cancel()

    def _expire(self) -> None:
        self.timed_out = True
        self.stop()

    def kill(self, number: int) -> bool:
        """Send a signal to all of its process group; False when nothing is left of it."""
        if self.process.returncode is not None:
            return False
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end, and insist after `GRACE` seconds."""
        if self.kill(number):
            # One that is stopped would not hear of it.
            self.kill(signal.SIGCONT)
            if self.insisting is None:
                self.insisting = self.loop.call_later(GRACE, self.kill, signal.SIGKILL)

    async def close(self) -> None:
        """End it with all that it has started, and forget its output."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            # A process that hangs in the kernel does not end.
            async with asyncio.timeout(GRACE + 1):
                await self.ended.wait()
        self.kill(signal.SIGKILL)
        await self.forget()

    async def forget(self) -> None:
        """Give up its output; what still writes to it gets SIGPIPE."""
        for output in self.outputs.values():
            await output.forget()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.shield(self.watching)


class Jobs:
    """The background commands by name, running and over."""

    def __init__(self, environment: Environment, working_dir: str, limits: Limits) -> None:
        self.environment = environment
        self.working_dir = working_dir
        self.limits = limits
        self.starting = 0
        self._jobs: dict[str, Job] = {}
        self._folder: Path | None = None
        self._folder_lock = threading.Lock()
        self.threads = ThreadPoolExecutor(4, "jobs")

    def folder(self) -> Path:
        """A private folder for output too long to be kept in memory; raises `StorageError`."""
        with self._folder_lock:
            if self._folder is None:
                self._folder, _ = runtime.claim(self.environment, self.working_dir, None)
            return self._folder

    def get(self, name: str) -> Job:
        """Raises `NotFoundError`."""
        try:
            return self._jobs[name]
        except KeyError:
            raise NotFoundError(f"There is no command {name}; it may have been deleted.") from None

    def list(self) -> list[Job]:
        return list(self._jobs.values())

    async def start(self, order: Order) -> Job:
        """Raises `UsageError` for what can't be run, `TooManyError`, or OSError where the kernel refuses."""
        running = sum(job.running for job in self._jobs.values()) + self.starting
        if running >= self.limits.max_commands:
            raise TooManyError(f"{running} commands are running, which is the limit; wait for one or end it.")
        await self._make_room()
        self.starting += 1
        try:
            process, pipes = await aside(None, _spawn, order)
        finally:
            self.starting -= 1
        name = os.urandom(8).hex()
        outputs = {
            stream: Output(
                pipe, Spool(self.folder, f"{name}.{stream}", self.limits.output_bytes), self.threads
            )
            for stream, pipe in pipes.items()
        }
        job = self._jobs[name] = Job(name, order, process, outputs)
        return job

    async def delete(self, name: str) -> None:
        """End it, if need be, and forget it."""
        await self.get(name).close()
        self._jobs.pop(name, None)

    async def forget(self, name: str) -> None:
        """Forget one that is over."""
        await self.get(name).forget()
        self._jobs.pop(name, None)

    async def _make_room(self) -> None:
        """Forget the oldest commands that are over, until the rest is within the limits."""
        size = sum(job.size for job in self._jobs.values())
        for name, job in list(self._jobs.items()):
            if len(self._jobs) < self.limits.kept_commands and size <= self.limits.output_total_bytes:
                return
            if not job.running:
                size -= job.size
                self._jobs.pop(name, None)
                await job.forget()

    async def close(self) -> None:
        """End them all."""
        await asyncio.gather(*(job.close() for job in self._jobs.values()))
        self._jobs.clear()
        self.threads.shutdown(wait=False)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _spawn(order: Order) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """The process, and the reading ends of its two pipes; blocks until it has been executed."""
    ours: dict[str, int] = {}
    theirs: list[int] = []
    files: list[int] = []
    try:
        for stream in ("stdout", "stderr"):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            ours[stream] = reading
            theirs.append(writing)
            if order.identity.switched:
                # So that the user can open /dev/stderr, which is a new opening of the pipe.
                os.fchown(writing, order.identity.uid, order.identity.gid)
        stdin = _stdin(order.stdin)
        files.append(stdin)
        process = subprocess.Popen(
            order.argv,
            env=as_mapping(order.environment),
            cwd=order.cwd,
            stdin=stdin,
            stdout=theirs[0],
            stderr=theirs[1],
            start_new_session=True,
            **order.identity.popen(),
        )
    except BaseException as error:
        for pipe in ours.values():
            os.close(pipe)
        if isinstance(error, OSError) and error.filename is not None:
            raise UsageError(f"{error.filename!r} can't be used: {error.strerror}.") from error
        raise
    finally:
        for file in (*theirs, *files):
            os.close(file)
    oom.offer(process.pid)
    return process, ours


def _stdin(data: bytes | None) -> int:
    """A file descriptor to read ``data`` from: a file in memory, which needs nobody to fill it."""
    if data is None:
        with contextlib.suppress(OSError):
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    file = os.memfd_create("stdin")
    rest = memoryview(data or b"")
    while rest:
        rest = rest[os.write(file, rest) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file

"""The process of a kernel: started as the sandbox's user, watched until its end, never outliving the server.

It holds one end of a socket pair, the lifeline: when the server is gone, even by SIGKILL, the kernel reads
the end of file there and dies with everything that it has started in its process group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import UnsupportedError
from graftbox.server import oom
from graftbox.server.ending import end_of
from graftbox.server.environment import as_mapping
from graftbox.server.identity import Identity

_SAID = 4096
"""Bytes of its last words that are kept."""


@dataclass(frozen=True)
class Plan:
    """What a kernel is to be: ``entries`` is its environment, ``interpreter`` None is the bundle's own
    Python.
    """

    cwd: str
    identity: Identity
    entries: tuple[bytes, ...]
    interpreter: str | None = None

    @property
    def home(self) -> str | None:
        found = next((each[5:] for each in self.entries if each.startswith(b"HOME=")), None)
        return os.fsdecode(found) if found else None


class Process:
    """``lifeline`` is our end of the socket pair; ``ended`` the exit code, or minus the signal."""

    def __init__(
        self,
        argv: Sequence[str],
        plan: Plan,
        cwd: str,
        files: Sequence[int] = (),
    ) -> None:
        self.lifeline, theirs = socket.socketpair()
        reading, writing = os.pipe()
        self.said = b""
        try:
            self._popen = subprocess.Popen(
                [*argv, str(theirs.fileno())],
                env=as_mapping(plan.entries),
                cwd=cwd if Path(cwd).is_dir() else "/",
                stdin=_null(),
                stdout=writing,
                stderr=writing,
                pass_fds=[theirs.fileno(), *files],
                start_new_session=True,
                **plan.identity.popen(),
            )
        except OSError as error:
            self.lifeline.close()
            os.close(reading)
            raise UnsupportedError(f"The kernel {argv[0]} can't be started: {error.strerror}.") from error
        finally:
            theirs.close()
            os.close(writing)
        self.pid = self._popen.pid
        oom.offer(self.pid)
        self._reading = reading
        os.set_blocking(reading, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(reading, self._listen)
        self.ended = self._loop.create_task(self._watch())

    def is_over(self) -> bool:
        """Whether it has ended, even if `ended` does not say so yet: a thread of it may take its time."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            return self.ended.done()
        return state in (b"Z", b"X")

    def interrupt(self) -> None:
        """SIGINT for the kernel and what it runs."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def end(self) -> None:
        """Hang up, which it does not survive, and kill what is left of its group."""
        self.lifeline.close()
        self.kill()
        await asyncio.wait({self.ended})

    def _signal(self, number: int) -> None:
        # The group may live on after its leader, and its number stays taken until then.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _listen(self) -> None:
        try:
            data = os.read(self._reading, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.hear(data)
        else:
            self._deaf()

    def hear(self, data: bytes) -> None:
        """Its output, as it comes."""
        self.said = (self.said + data)[-_SAID:]

    def _deaf(self) -> None:
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            self._reading = -1

    async def _watch(self) -> int:
        await end_of(self.pid)
        self.kill()  # what it has started must not go on without it
        status = self._popen.wait()
        if self._reading >= 0:
            self._listen()
        self._deaf()
        self.lifeline.close()
        return status


def how_it_ended(status: int) -> str:
    """``was killed by signal 9 (SIGKILL)`` or ``exited with exit code 3``."""
    if status >= 0:
        return f"exited with exit code {status}"
    with contextlib.suppress(ValueError):
        return f"was killed by signal {-status} ({signal.Signals(-status).name})"
    return f"was killed by signal {-status}"


def _null() -> int | None:
    return subprocess.DEVNULL if Path(os.devnull).exists() else None

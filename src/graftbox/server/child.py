"""The base image's own entrypoint, run beside the server: its output is ours, its end is only logged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from pathlib import Path

from graftbox.server import oom
from graftbox.server.ending import end_of
from graftbox.server.environment import Environment, as_mapping

GRACE = 8.0
"""Seconds between SIGTERM and SIGKILL when the server stops; container engines give 10 in all."""

log = logging.getLogger("graftbox.child")


class Child:
    """One supervised process in the container's original environment and working directory."""

    def __init__(self, argv: tuple[str, ...], environment: Environment, cwd: str) -> None:
        self.argv = argv
        self.environment = environment
        self.cwd = cwd
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = asyncio.Event()

    def start(self) -> None:
        """Start it; a program that can't run is logged, and the server goes on."""
        try:
            self.process = subprocess.Popen(
                self.argv,
                env=as_mapping(self.environment.for_the_user()),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL if Path(os.devnull).exists() else None,
                start_new_session=True,
            )
        except OSError as error:
            log.error("%s could not be started: %s", self.argv[0], error.strerror)
            self.ended.set()
        else:
            oom.offer(self.process.pid)

    async def watch(self) -> None:
        """Wait for its end and say how it ended."""
        if self.process is None:
            return
        await end_of(self.process.pid)
        status = self.process.wait()
        self.ended.set()
        how = f"was killed by signal {-status}" if status < 0 else f"exited with exit code {status}"
        log.warning("%s %s; the server goes on.", self.argv[0], how)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help in time."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process is None or self.process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self.ended.wait()

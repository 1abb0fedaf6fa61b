"""The server's own state for ``GET /server_info``; psutil is imported with the first question."""

from __future__ import annotations

import time
from typing import Any

_BLOCK = 512


class Clock:
    """When the server started and when it was last asked to do something; seconds."""

    def __init__(self) -> None:
        self.started = self.last_action = time.monotonic()
        self._process: Any = None

    def action(self) -> None:
        self.last_action = time.monotonic()

    def info(self) -> dict[str, Any]:
        """Blocking (files in /proc): call it off the event loop. What the kernel does not tell is zero."""
        now = time.monotonic()
        return {
            "uptime": now - self.started,
            "idle_time": now - self.last_action,
            "resources": self._resources(),
        }

    def _resources(self) -> dict[str, Any]:
        import resource

        import psutil

        if self._process is None:
            self._process = psutil.Process()
        process = self._process
        memory = process.memory_info()
        try:
            disk = psutil.disk_usage("/")._asdict()
        except OSError:
            disk = {"total": 0, "used": 0, "free": 0, "percent": 0.0}
        # /proc/self/io says the same, but not to a process that keeps secrets (secrets.py).
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            # Since the previous question; never waits for a sample.
            "cpu_percent": process.cpu_percent(),
            "memory": {"rss": memory.rss, "vms": memory.vms, "percent": process.memory_percent()},
            "disk": disk,
            "io": {"read_bytes": usage.ru_inblock * _BLOCK, "write_bytes": usage.ru_oublock * _BLOCK},
        }

"""The server's own state for ``GET /server_info``; psutil is imported with the first question."""

from __future__ import annotations

import time
from typing import Any


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
        import psutil

        if self._process is None:
            self._process = psutil.Process()
        process = self._process
        memory = process.memory_info()
        try:
            disk = psutil.disk_usage("/")._asdict()
        except OSError:
            disk = {"total": 0, "used": 0, "free": 0, "percent": 0.0}
        try:
            io = process.io_counters()
            transferred = {"read_bytes": io.read_bytes, "write_bytes": io.write_bytes}
        except (psutil.Error, OSError, NotImplementedError):
            transferred = {"read_bytes": 0, "write_bytes": 0}
        return {
            # Since the previous question; never waits for a sample.
            "cpu_percent": process.cpu_percent(),
            "memory": {"rss": memory.rss, "vms": memory.vms, "percent": process.memory_percent()},
            "disk": disk,
            "io": transferred,
        }

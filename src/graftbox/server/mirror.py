"""What of a shell's output tmux is still to be shown, at a rate that tmux can draw.

Nothing but C modules is imported: a keeper runs before every new shell.
"""

from __future__ import annotations

import posix
import time

WAITING, KEPT = 512 * 1024, 64 * 1024
"""Bytes that may wait; when more do, all but the last ones are skipped, from the start of a line."""
AT_ONCE, RATE = 16 * 1024, 2e6
"""Bytes of one write, and of one second."""


class Mirror:
    """A bounded backlog of output that is written to ``descriptor``, which does not block."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.backlog = bytearray()
        self.next = 0.0

    def add(self, data: bytes) -> None:
        self.backlog += data
        if len(self.backlog) > WAITING:
            cut = self.backlog.find(b"\n", len(self.backlog) - KEPT)
            del self.backlog[: cut + 1 if cut >= 0 else len(self.backlog) - KEPT]

    def delay(self) -> float | None:
        """Seconds until the next write is due, None where nothing waits."""
        return max(0.0, self.next - time.monotonic()) if self.backlog else None

    def write(self) -> None:
        try:
            written = posix.write(self.descriptor, self.backlog[:AT_ONCE])
        except OSError:
            return
        del self.backlog[:written]
        self.next = time.monotonic() + written / RATE

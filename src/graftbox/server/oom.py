"""Which processes the kernel ends first when memory runs out: those of the agent, not the server.

They are made more likely to be chosen, which needs no privilege; the server is not made less likely.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

OFFER = 500
"""Counts as if the process used half of the memory that there is."""


def offer(pid: int) -> None:
    """Let the kernel choose this process, and those that it starts, before the server."""
    path = Path(f"/proc/{pid}/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        path.write_text(str(min(1000, int(path.read_text()) + OFFER)))

"""Which processes belong together, from /proc."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

_GROUP, _SESSION = 2, 3


def of_group(group: int) -> list[int]:
    """The pids of a process group. Blocking."""
    return _with(_GROUP, group)


def of_session(session: int) -> list[int]:
    """The pids of all processes whose terminal session has this number. Blocking."""
    return _with(_SESSION, session)


def send(number: int, pids: list[int], user: int | None) -> list[int]:
    """Signal those of ``pids`` that are ``user``'s, None: anybody's; who got it.

    Which processes belong to a terminal is told by a process of its user, who may lie.
    """
    reached = []
    for pid in pids:
        with suppress(OSError):
            if pid > 1 and (user is None or Path(f"/proc/{pid}").stat().st_uid == user):
                os.kill(pid, number)
                reached.append(pid)
    return reached


def kill_session(session: int, user: int | None) -> None:
    """Kill every process of a terminal session, those that it forks meanwhile too. Blocking."""
    for _ in range(5):
        if not send(signal.SIGKILL, of_session(session), user):
            return


def _with(field: int, value: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib is not needed here, and slower
        if entry.isdigit():
            with suppress(OSError):
                # After the name, which may hold anything: state, parent, group, session.
                words = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                if words[0] != b"Z" and int(words[field]) == value:
                    found.append(int(entry))
    return sorted(found)

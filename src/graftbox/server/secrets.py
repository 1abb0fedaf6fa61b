"""Keeps the server's key out of the sight of other processes of the same user.

The kernel shows the environment a process was started with in /proc/PID/environ, and its memory in
/proc/PID/mem, to every process of that user. Here the key is overwritten where the kernel looks, and the
process is made one that only a privileged user may look into (prctl(2), PR_SET_DUMPABLE): not its memory, not
its files, not its environment, and no debugger attaches. Programs that it starts are ordinary ones again.
"""

from __future__ import annotations

import os

KEY = "SESSION_API_KEY"
OURS = "GRAFTBOX_"
"""Variables that concern this server alone begin so; they and the key reach no other process."""

_PR_SET_DUMPABLE = 4
# Their places in /proc/PID/stat behind the name of the program (proc_pid_stat(5), fields 50 and 51).
_ENV_START, _ENV_END = 47, 48


def take_environment() -> tuple[bytes, ...]:
    """The environment this process was started with, ``NAME=value`` byte for byte; then hides the key.

    It comes from the kernel, as CPython changes its own copy at start (PEP 538 sets LC_CTYPE). Call it before
    any process is started, and once: a process without privileges can't read it again.
    """
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - before pathlib is imported
            raw = file.read()
    except OSError:
        raw = b"\0".join(name + b"=" + value for name, value in os.environb.items())
    entries = raw.split(b"\0")
    for name in list(os.environ):
        if name == KEY or name.startswith(OURS):
            del os.environ[name]
    _hide(entries)
    return tuple(entry for entry in entries if b"=" in entry)


def _hide(entries: list[bytes]) -> None:
    import ctypes

    start, end = _block()
    secret = KEY.encode() + b"="
    for entry in entries:
        if entry.startswith(secret) and start + len(entry) <= end:
            ctypes.memset(start, 0, len(entry))
        start += len(entry) + 1
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _block() -> tuple[int, int]:
    """Where in memory the kernel reads the environment; (0, 0) where no /proc says so."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - before pathlib is imported
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[_ENV_START]), int(fields[_ENV_END])
    except (OSError, IndexError):
        return 0, 0

"""The container's first process: a small parent of the server, in the place of an init program.

As process 1 it may not be killed from inside the container. It takes in orphans, passes signals on, exits
with the server's exit code, and starts the server again when that was killed, by a `pkill` of the agent or
for want of memory. The listening sockets go from one server to the next (inheritance.py). Its memory holds
the key, which is why it is hidden like the server (secrets.py).
"""

from __future__ import annotations

import os
import signal
import sys
import time

from graftbox.server.inheritance import Inheritance

_PASSED_ON = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT),
)
_WATCHED = frozenset((*_PASSED_ON, signal.SIGCHLD))
_ENDINGS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))
_QUICK, _PATIENCE = 10.0, 5


def fork_server() -> tuple[int, Inheritance]:
    """Returns in the server's process only: how often it was started before, and what the server before has
    left. The parent exits with it.
    """
    inheritance = Inheritance()
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    starts = quick_ends = 0
    while True:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            return starts, inheritance
        status, told_to_end = _watch(pid)
        killed = os.WIFSIGNALED(status)
        quick_ends = quick_ends + 1 if time.monotonic() - began < _QUICK else 0
        if not killed or told_to_end or quick_ends >= _PATIENCE:
            os._exit(128 + os.WTERMSIG(status) if killed else os.WEXITSTATUS(status))
        starts += 1
        print(
            f"action-execution-server: killed by signal {os.WTERMSIG(status)}; starting it again.",
            file=sys.stderr,
            flush=True,
        )


def _watch(server: int) -> tuple[int, bool]:
    """The server's wait status, and whether it had been told to end."""
    told_to_end = False
    while True:
        number = signal.sigwait(_WATCHED)
        if number is not signal.SIGCHLD:
            told_to_end = told_to_end or number in _ENDINGS
            os.kill(server, number)
            continue
        # One SIGCHLD may stand for several ends.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == server:
                return status, told_to_end
            if pid == 0:
                break

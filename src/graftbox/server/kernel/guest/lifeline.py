"""Ends this process, and all that it has started in its process group, when the server is gone.

Runs on every Python since 3.6: kernels on the base image's interpreters hold one too.
"""

import contextlib
import fcntl
import os
import signal
import threading


def hold(descriptor: int) -> None:
    """Watch the socket ``descriptor``, on which nothing is ever sent, until the other end is closed."""
    os.set_inheritable(descriptor, False)
    # The system itself kills the group then (fcntl(2), "I/O readiness"), however busy this process is.
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, int(signal.SIGKILL))
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    # And we do where it can't, or when the other end was closed before.
    threading.Thread(target=_watch, args=(descriptor,), name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 1):
            pass
    os.killpg(0, signal.SIGKILL)

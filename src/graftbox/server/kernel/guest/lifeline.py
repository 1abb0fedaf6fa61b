"""Ends this process, and all that it has started in its process group, when the server is gone.

Runs on every Python since 3.6: kernels on the base image's interpreters hold one too.
"""

import os
import signal
import threading


def hold(descriptor: int) -> None:
    """Watch the socket ``descriptor`` until the server closes its end or dies."""

    def watch() -> None:
        try:
            while os.read(descriptor, 1):
                pass
        except OSError:
            pass
        os.killpg(0, signal.SIGKILL)

    die_with_parent()
    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def die_with_parent() -> None:
    """Be killed by the system too, when this process is too busy to notice."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    except (ImportError, OSError, AttributeError):
        pass

"""Unix sockets as a client meets them: paths that are too long, servers that do not listen yet."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LONGEST = 107
"""Bytes of a Unix socket's path (unix(7)); folders of caches and tests are often deeper."""


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A path of bearable length to the same socket, good while the block runs."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listens(path: str) -> bool:
    """Whether something accepts connections there; costs less than a failed request."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True

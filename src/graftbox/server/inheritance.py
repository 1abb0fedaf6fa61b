"""The listening sockets that a killed server leaves to the one after it: who connects in between waits.

They travel in messages of a socket pair that the parent of both holds (init.py): what nobody has received is
kept by the kernel, with the sockets in it, also when its sender is dead. The parent itself does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket

_LONGEST = 64


class Inheritance:
    """Made by the parent, used by the servers that it forks one after the other."""

    def __init__(self) -> None:
        self.reading, self.writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.reading.setblocking(False)
        self.writing.setblocking(False)

    def take(self) -> list[socket.socket]:
        """What the server before has left."""
        found: list[socket.socket] = []
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self.reading, _LONGEST, 1)
            except OSError:
                return found
            found += [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def leave(self, listener: socket.socket) -> None:
        """Keep it for the next server; where that fails, the next one opens its own."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.writing, [b"listener"], [listener.fileno()])


def listener_for(inherited: list[socket.socket], place: tuple[str, int] | str) -> socket.socket | None:
    """The inherited socket at an address and port (0: whichever port it has) or at a path; taken off the
    list.
    """
    for listener in inherited:
        if _is_at(listener, place):
            inherited.remove(listener)
            return listener
    return None


def _is_at(listener: socket.socket, place: tuple[str, int] | str) -> bool:
    if isinstance(place, str):
        # A socket whose file somebody has removed is out of everybody's reach.
        return listener.family == socket.AF_UNIX and listener.getsockname() == place and os.path.exists(place)  # noqa: PTH110 - as text
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    return listener.family == family and place[1] in (0, listener.getsockname()[1])

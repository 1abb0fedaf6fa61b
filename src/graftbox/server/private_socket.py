"""A keeper's private socket to its shell: command lines go in, reports of how they end come out.

It is the shell's standard input, so nothing is typed on the terminal. Nothing but C modules is imported: a
keeper (keeper.py) runs before every new shell.
"""

from __future__ import annotations

import _socket
import fcntl
import posix
import termios

FIELDS = 5
"""Of a report, each with a NUL behind it."""
_AT_ONCE = 65536


def socket_pair() -> tuple[int, int]:
    """Two descriptors, each what is written to the other."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return one.detach(), other.detach()


class PrivateSocket:
    """``descriptor`` is our end, ``theirs`` the shell's until it is started; ``lines`` wait for room in it.

    ``orphaned``: every process that had the shell's end has closed it.
    """

    def __init__(self) -> None:
        self.descriptor, self.theirs = socket_pair()
        posix.set_blocking(self.descriptor, False)
        self.lines = bytearray()
        self.orphaned = False
        self._part = b""

    def give(self, lines: bytes) -> None:
        """Have the shell read these when it is through with what it was given before."""
        self.lines += lines
        self.feed()

    def feed(self) -> None:
        """Pass on what there is room for."""
        while self.lines:
            try:
                del self.lines[: posix.write(self.descriptor, self.lines[:_AT_ONCE])]
            except OSError:
                return

    def reports(self) -> list[list[bytes]]:
        """Those that have come whole by now, each of `FIELDS` fields."""
        try:
            data = posix.read(self.descriptor, _AT_ONCE)
        except OSError:
            return []
        if not data:
            self._orphan()
            return []
        *fields, self._part = (self._part + data).split(b"\0")
        whole = len(fields) // FIELDS * FIELDS
        self._part = b"\0".join([*fields[whole:], self._part])
        return [fields[at : at + FIELDS] for at in range(0, whole, FIELDS)]

    def _orphan(self) -> None:
        """A socket that stays silent takes the place of one that would say for ever that it is closed."""
        self.orphaned = True
        silent, self._unused = socket_pair()
        posix.dup2(silent, self.descriptor)
        posix.close(silent)
        posix.set_blocking(self.descriptor, False)

    @property
    def unread(self) -> bool:
        """Whether the shell has not yet read all that it was given, or never will."""
        if self.lines or self.orphaned:
            return True
        try:
            return fcntl.ioctl(self.descriptor, termios.TIOCOUTQ, bytes(4)) != bytes(4)
        except OSError:
            return True  # a kernel that does not tell

"""A keeper's connection to the server, which may die and be followed by another.

What was told of the present command is kept, and told again to the next server. Nothing but C modules is
imported: a keeper (keeper.py) runs before every new shell.
"""

from __future__ import annotations

import _socket
import sys

from graftbox.server.frames import frame, take

LARGEST = 1 << 30
"""Bytes of a frame."""
_AT_ONCE = 1 << 20

Order = tuple[bytes, bytes]
"""What the server wants, as frames.py has it: a kind and its content."""


class Uplink:
    """``connection`` is None while there is no server; ``listener`` is where the next one comes to, and
    ``log`` the descriptor that it is given.

    Frames go to ``outbox``, and from there to the server with `flush`.
    """

    def __init__(self, connection: _socket.socket, listener: _socket.socket, log: int) -> None:
        self.connection: _socket.socket | None = connection
        self.listener = listener
        self.log = log
        self.outbox = bytearray()
        self._inbox = bytearray()
        self._history: list[bytes] = []
        self._acknowledged, self._told, self._waiting_for_ack = 0, 0, False

    @property
    def descriptor(self) -> int | None:
        """Of the connection."""
        return None if self.connection is None else self.connection.fileno()

    # -- to the server

    def hello(self, introduction: bytes, end: int) -> None:
        """Introduce the shell to the server, and hand over the log, which ends at ``end``; may raise
        `OSError`.
        """
        assert self.connection is not None
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, self.log.to_bytes(4, sys.byteorder))]
        self.connection.sendmsg([frame(b"h", introduction)], rights)
        self.connection.setblocking(False)
        self._acknowledged = self._told = end
        self._waiting_for_ack = False

    def send(self, kind: bytes, payload: bytes) -> None:
        """Tell the server, if there is one."""
        if self.connection is not None:
            self.outbox += frame(kind, payload)

    def remember(self, kind: bytes, payload: bytes) -> None:
        """Tell the server, and keep it for the next one."""
        self._history.append(frame(kind, payload))
        self.send(kind, payload)

    def forget(self) -> None:
        """Keep nothing of what was told so far: another command begins."""
        self._history.clear()

    @property
    def remembered(self) -> int:
        return len(self._history)

    def lag(self, end: int) -> int:
        """How many bytes of the log, which ends at ``end``, the server has not heard of; 0 without one."""
        return 0 if self.connection is None else end - self._acknowledged

    def acknowledge(self, end: int) -> None:
        self._acknowledged, self._waiting_for_ack = end, False

    def flush(self, end: int) -> None:
        """Say how far the log is, once the server has heard of what was said before; send what waits."""
        if self.connection is None:
            return
        if end != self._told and not self._waiting_for_ack:
            self._told, self._waiting_for_ack = end, True
            self.send(b"o", b"%d" % end)
        if self.outbox:
            try:
                del self.outbox[: self.connection.send(self.outbox)]
            except BlockingIOError:
                pass
            except OSError:
                self.hang_up()

    # -- from the server

    def receive(self) -> list[Order] | None:
        """What it has sent, up to a megabyte; None where there is nothing more now, or no server."""
        if self.connection is None:
            return None
        try:
            data = self.connection.recv(_AT_ONCE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return None
        self._inbox += data
        return take(self._inbox, LARGEST)

    def hang_up(self) -> None:
        """The server is gone. The log goes on."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            self.outbox.clear()

    # -- the next server

    def accept(self) -> int:
        """The descriptor of a connection that waits."""
        descriptor: int = self.listener._accept()[0]  # type: ignore[attr-defined]  # typeshed leaves it out
        return descriptor

    def take_over(self, descriptor: int, introduction: bytes, end: int) -> bool:
        """Leave the server before for the one at ``descriptor``; whether that one listens."""
        self.hang_up()
        self.connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        self.connection.setblocking(False)
        self._inbox.clear()
        self.outbox.clear()
        try:
            self.hello(introduction, end)
        except OSError:
            return False
        for told in self._history:
            self.outbox += told
        return True


def call(path: str, token: str) -> tuple[Uplink, list[bytes]]:
    """Present the token on the server's socket; returns the connection and the words that it answers with."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(path)
    connection.sendall(f"{token}\n".encode())
    body, (log, listener) = _receive(connection)
    place = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, listener)
    return Uplink(connection, place, log), body.split(b"\0")


def _receive(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """The server's first message: a length, that many bytes, and the descriptors that come with them."""
    descriptors: list[int] = []
    data = b""
    while len(data) < 8 or len(data) < 8 + int.from_bytes(data[:8], "big"):
        chunk, rights, _, _ = connection.recvmsg(65536, _socket.CMSG_SPACE(8))
        if not chunk:
            sys.exit("The server closed its socket before the shell could start.")
        data += chunk
        for _, _, numbers in rights:
            descriptors += [
                int.from_bytes(numbers[i : i + 4], sys.byteorder) for i in range(0, len(numbers), 4)
            ]
    return data[8:], descriptors

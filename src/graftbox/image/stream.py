"""Sockets to servers, with TLS or without, whose failures are told apart from those of anything else."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl

    import httpcore2

CONNECT = 10.0
"""Seconds, for TCP and for TLS each."""
PIECE = 256 * 1024
"""Bytes that are written at a time, and have to be gone before patience ends."""


class LostError(Exception):
    """A connection that broke."""


class SlowError(LostError):
    """One that made no progress in time."""


class UnreachableError(LostError):
    """One that was never made."""


class Stream(Protocol):
    """Bytes to and from a server; all methods but ``close`` raise `LostError`."""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""

    def write(self, data: bytes) -> None: ...

    def secured(self, context: ssl.SSLContext, name: str) -> Stream:
        """The same with TLS, for a server that proves to be ``name``; this one is of no use then."""

    @property
    def is_readable(self) -> bool:
        """Whether a read would not wait."""

    def close(self) -> None: ...


class SocketStream:
    """A connected socket; ``patience`` is how many seconds a read or write may make no progress."""

    def __init__(self, link: socket.socket, patience: float) -> None:
        self._link, self._patience = link, patience
        link.settimeout(patience)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)

    def read(self, size: int) -> bytes:
        try:
            return self._link.recv(size)
        except OSError as error:
            raise _lost(error) from error

    def write(self, data: bytes) -> None:
        try:
            # The time that the socket allows is for a whole call.
            for start in range(0, len(data), PIECE):
                self._link.sendall(data[start : start + PIECE])
        except OSError as error:
            raise _lost(error) from error

    def secured(self, context: ssl.SSLContext, name: str) -> Stream:
        try:
            self._link.settimeout(CONNECT)
            return SocketStream(context.wrap_socket(self._link, server_hostname=name), self._patience)
        except OSError as error:
            self.close()
            raise UnreachableError(error) from error
        except BaseException:
            self.close()
            raise

    @property
    def is_readable(self) -> bool:
        return bool(self._poll.poll(0))

    def close(self) -> None:
        self._link.close()


def tcp(host: str, port: int, patience: float) -> Stream:
    """A connection to ``host:port``."""
    try:
        link = socket.create_connection((host, port), CONNECT)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:  # the latter for a name that no resolver takes
        raise UnreachableError(error) from error
    return SocketStream(link, patience)


def unix(path: str, patience: float) -> Stream:
    """A connection to a Unix socket."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(path)
    except OSError as error:
        link.close()
        raise UnreachableError(error) from error
    return SocketStream(link, patience)


class NestingStream:
    """One of httpcore2's: these can have TLS inside of TLS, which proxies that are spoken to by TLS need."""

    def __init__(self, inner: httpcore2.NetworkStream, patience: float) -> None:
        self._inner, self._patience = inner, patience

    def read(self, size: int) -> bytes:
        with _told_apart():
            return self._inner.read(size, timeout=self._patience)

    def write(self, data: bytes) -> None:
        with _told_apart():
            self._inner.write(data, timeout=self._patience)

    def secured(self, context: ssl.SSLContext, name: str) -> Stream:
        with _told_apart():
            return NestingStream(self._inner.start_tls(context, name, timeout=CONNECT), self._patience)

    @property
    def is_readable(self) -> bool:
        return bool(self._inner.get_extra_info("is_readable"))

    def close(self) -> None:
        self._inner.close()


def nesting(host: str, port: int, patience: float) -> Stream:
    """A connection to ``host:port``, in which TLS can be begun twice."""
    import httpcore2

    with _told_apart():
        return NestingStream(httpcore2.SyncBackend().connect_tcp(host, port, timeout=CONNECT), patience)


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    import httpcore2

    try:
        yield
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
        raise UnreachableError(error) from error
    except httpcore2.TimeoutException as error:
        raise SlowError(error) from error
    except (httpcore2.NetworkError, OSError) as error:
        raise LostError(error) from error


def _lost(error: OSError) -> LostError:
    return SlowError(error) if isinstance(error, TimeoutError) else LostError(error)

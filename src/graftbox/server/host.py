"""Listens for clients of one ASGI application: on TCP, on a Unix socket, or on both."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from graftbox.server.http import Application, Connection
from graftbox.server.inheritance import Inheritance, listener_for

MAX_CONNECTIONS = 400
"""One more closes the oldest idle one: well below the 1024 open files that a process usually may have."""
OWN_PORTS: set[int] = set()
"""The TCP ports on which this process listens for clients."""
_BACKLOG = 512
# asyncio accepts as many connections in a row as the backlog that it is told, before we see any of them.
_AT_ONCE = 8


def _bound(path: str) -> socket.socket:
    """A socket at ``path``, in the place of one that a former server has left there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).is_socket():
            Path(path).unlink()
        listener.bind(path)
    except BaseException:
        listener.close()
        raise
    return listener


class Host:
    """Serves an application on a TCP port, a Unix socket, or both.

    ``takes_websockets`` says which paths may be upgraded, ``tunnels`` at which the upgraded connection is
    another server's; elsewhere an upgrade is ignored (RFC 9110, 7.8).
    """

    def __init__(
        self,
        application: Application,
        takes_websockets: Callable[[str], bool] = lambda path: False,
        max_connections: int = MAX_CONNECTIONS,
        tunnels: Callable[[str], bool] = lambda path: False,
    ) -> None:
        self.application = application
        self.takes_websockets = takes_websockets
        self.tunnels = tunnels
        self.max_connections = max_connections
        self.connections: dict[Connection, None] = {}
        self.servers: list[asyncio.Server] = []
        self.listeners: list[socket.socket] = []
        self.port: int | None = None
        self.path: str | None = None

    async def listen(
        self, host: str, port: int | None, path: str | None, inheritance: Inheritance | None = None
    ) -> None:
        """Accept on ``host:port`` (None: no TCP; 0: a free port, then in ``port``) and on the socket
        ``path``; by the sockets of the server before, if it has left any.
        """
        import resource

        # Half of the files that may be open are for what the clients ask for.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files != resource.RLIM_INFINITY:
            self.max_connections = min(self.max_connections, max(8, files // 2 - 16))
        loop = asyncio.get_running_loop()
        inherited = inheritance.take() if inheritance else []
        if port is not None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = listener_for(inherited, (host, port)) or socket.create_server(
                (host, port), family=family
            )
            # Its connections have it from there: asyncio sets it only on sockets that name TCP as protocol.
            # Without it the second of two small messages waits until the first is acknowledged, some 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.listeners.append(listener)
            self.servers.append(await loop.create_server(self._connection, sock=listener, backlog=_AT_ONCE))
            self.port = listener.getsockname()[1]
            OWN_PORTS.add(self.port)
        if path is not None:
            listener = listener_for(inherited, path) or _bound(path)
            self.listeners.append(listener)
            self.servers.append(
                await loop.create_unix_server(self._connection, sock=listener, backlog=_AT_ONCE)
            )
            self.path = path
            # Who may connect is the folder's business, and the key's: the client is another user outside.
            os.chmod(path, 0o666)  # noqa: PTH101 - a path as text, as asyncio wants it
        for listener in self.listeners:
            listener.listen(_BACKLOG)
            if inheritance:
                inheritance.leave(listener)
        for listener in inherited:
            listener.close()

    def _connection(self) -> Connection:
        return Connection(self)

    async def close(self) -> None:
        if self.port is not None:
            OWN_PORTS.discard(self.port)
        for listener in self.listeners:
            with contextlib.suppress(OSError):
                # Nobody is to wait for a next server: there will be none.
                listener.shutdown(socket.SHUT_RDWR)
        for server in self.servers:
            server.close()
        for connection in list(self.connections):
            if connection.websocket:
                connection.websocket.shut()
            connection.transport.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                Path(self.path).unlink()
        await asyncio.sleep(0)

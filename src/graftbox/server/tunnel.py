"""A connection whose client asks for an upgrade that another server will answer: bytes, both ways.

To the application it is an ASGI ``http`` scope with the type ``upgrade``. It answers with ``http.response``
messages as to any request, after which the connection is closed, or with ``upgrade.accept``, whose ``head``
is the other server's answer; then ``upgrade.data`` messages carry bytes until either side ends. Nothing is
looked into, so that what the two ends agree on, such as compression, is theirs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from graftbox.server.http import Application, Connection, Message

_BUFFER = 256 * 1024
# A client that is gone without a word is found out after these seconds of silence, and so many probes.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))

log = logging.getLogger("graftbox.tunnel")


class Tunnel:
    """The connection after its upgrade request, given the ``scope`` of that request."""

    def __init__(self, connection: Connection, scope: Message) -> None:
        self.connection = connection
        offers = b",".join(value for name, value in scope["headers"] if name == b"sec-websocket-protocol")
        names = [each.strip().decode("latin-1") for each in offers.split(b",")]
        self.scope: Message = {**scope, "type": "upgrade", "subprotocols": names}
        self.incoming = bytearray()
        self.arrived = asyncio.Event()
        self.over = False
        self.accepted = False

    def feed(self, data: bytes) -> None:
        """Bytes from the client; the last ones may be followed by `lost`."""
        self.incoming += data
        if len(self.incoming) > _BUFFER:
            self.connection.pause_reading()
        self.arrived.set()

    def lost(self) -> None:
        """The connection is gone."""
        self.over = True
        self.arrived.set()

    def shut(self) -> None:
        """The server goes away."""
        self.lost()

    async def receive(self) -> Message:
        while self.accepted and not self.incoming and not self.over:
            self.arrived.clear()
            self.connection.resume_reading()
            await self.arrived.wait()
        if not self.accepted and not self.over:
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self.incoming:
            return {"type": "http.disconnect"}
        data, self.incoming = bytes(self.incoming), bytearray()
        self.connection.resume_reading()
        return {"type": "upgrade.data", "body": data}

    async def send(self, message: Message) -> None:
        """Raises `ConnectionResetError` when the client is gone."""
        if self.over or self.connection.transport.is_closing():
            raise ConnectionResetError("The client went away.")
        kind = message["type"]
        encode = self.connection.encode
        if kind == "upgrade.accept":
            self.accepted = True
            self._keep_alive()
            data = message["head"]
        elif kind == "upgrade.data":
            data = message["body"]
        elif kind == "http.response.start":
            headers = [*message.get("headers", ()), (b"connection", b"close")]
            data = encode(h11.Response(status_code=message["status"], headers=headers))
        else:
            data = encode(h11.Data(data=message["body"])) if message.get("body") else b""
            if not message.get("more_body", False):
                data += encode(h11.EndOfMessage())
        self.connection.write(data)
        await self.connection.drain()

    def _keep_alive(self) -> None:
        found = self.connection.transport.get_extra_info("socket")
        if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEP_ALIVE:
                    found.setsockopt(socket.IPPROTO_TCP, option, value)

    async def run(self, application: Application) -> None:
        """Serve it to its end and close the connection."""
        try:
            await application(self.scope, self.receive, self.send)
        except ConnectionResetError:
            pass
        except Exception:
            log.exception("The tunnel %s failed", self.scope["path"])
            if not self.accepted:
                self.connection.refuse(500, b"An unexpected error occurred. Please try again later.")
        self.connection.transport.close()

"""The WebSocket side of the HTTP host: one upgraded connection as an ASGI ``websocket`` scope, on wsproto.

Imported with the first upgrade. No extensions are agreed to: a compressed message could be any size.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from graftbox.server.http import Application, Connection, Message

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes of one message; a longer one closes the connection with code 1009."""
PING_SECONDS = 20.0
"""Between two pings; a client that has said nothing in the time of three is taken for gone."""
CLOSE_SECONDS = 5.0
"""That a client gets to answer our close."""
_BUFFER = 256 * 1024

log = logging.getLogger("graftbox.websocket")


class WebSocket:
    """One connection after its upgrade request, given the ``scope`` of that request."""

    def __init__(self, connection: Connection, scope: Message) -> None:
        self.connection = connection
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self.scope: Message = {
            **scope,
            "type": "websocket",
            "scheme": "ws",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        self.incoming: deque[Message] = deque()
        self.size = 0
        self.parts: list[Any] = []
        self.parts_size = 0
        self.arrived = asyncio.Event()
        self.accepted = False
        self.early = b""
        self.closed: int | None = None
        self.ended = asyncio.Event()
        self.silent = 0
        self.pinging: asyncio.TimerHandle | None = None

    def open(self, trailing: bytes) -> None:
        """Check the handshake; raises `RemoteProtocolError` or ValueError."""
        headers = self.scope["headers"]
        self.protocol.initiate_upgrade_connection(headers, self.scope["raw_path"])
        for event in self.protocol.events():
            if isinstance(event, Request):
                self.scope["subprotocols"] = list(event.subprotocols)
        self.incoming.append({"type": "websocket.connect"})
        self.early += trailing

    def feed(self, data: bytes) -> None:
        """Bytes from the client; the last ones may be followed by `lost`."""
        self.silent = 0
        if not self.accepted:
            self.early += data
            self.connection.pause_reading()
            return
        try:
            self.protocol.receive_data(data)
            for event in self.protocol.events():
                self._take(event)
        except RemoteProtocolError as error:
            self._write(error.event_hint or CloseConnection(code=1002))
            self._end(1002)
        if self.size > _BUFFER:
            self.connection.pause_reading()

    def _take(self, event: Event) -> None:
        if isinstance(event, Ping):
            self._write(event.response())
        elif isinstance(event, CloseConnection):
            self._write(event.response())
            self._end(event.code)
        elif isinstance(event, TextMessage | BytesMessage) and self.closed is None:
            self.parts.append(event.data)
            self.parts_size += len(event.data)
            if self.parts_size > MAX_MESSAGE:
                self._write(CloseConnection(code=1009, reason=f"A message may have {MAX_MESSAGE} bytes."))
                self._end(1009)
            elif event.message_finished:
                self._deliver(isinstance(event, TextMessage))

    def _deliver(self, is_text: bool) -> None:
        whole = ("" if is_text else b"").join(self.parts)
        self.size += self.parts_size
        self.parts, self.parts_size = [], 0
        self.incoming.append({"type": "websocket.receive", "text" if is_text else "bytes": whole})
        self.arrived.set()

    def lost(self) -> None:
        """The connection is gone."""
        self._end(1006)

    def _end(self, code: int) -> None:
        if self.closed is None:
            self.closed = code
        self.ended.set()
        self.arrived.set()

    def _write(self, event: Event) -> None:
        # What can't be said any more, such as a pong after a close, need not be said.
        with contextlib.suppress(LocalProtocolError):
            self.connection.write(self.protocol.send(event))

    def _ping(self) -> None:
        if self.closed is not None:
            return
        # While nobody takes what has arrived, the answers to our pings wait behind it.
        self.silent = 0 if self.connection.paused else self.silent + 1
        if self.silent > 3:
            self.connection.transport.abort()
            return
        self._write(Ping())
        self._await_ping()

    def _await_ping(self) -> None:
        self.pinging = asyncio.get_running_loop().call_later(PING_SECONDS, self._ping)

    async def receive(self) -> Message:
        while not self.incoming:
            if self.closed is not None:
                return {"type": "websocket.disconnect", "code": self.closed}
            self.connection.resume_reading()
            self.arrived.clear()
            if not self.incoming and self.closed is None:
                await self.arrived.wait()
        message = self.incoming.popleft()
        self.size -= len(message.get("text") or message.get("bytes") or b"")
        if self.size <= _BUFFER // 2:
            self.connection.resume_reading()
        return message

    async def send(self, message: Message) -> None:
        """Raises `ConnectionResetError` when the client is gone."""
        kind = message["type"]
        if self.closed is not None:
            if kind == "websocket.close":
                return
            raise ConnectionResetError("The WebSocket is closed.")
        for event in self._events(kind, message):
            self._write(event)
        if kind == "websocket.accept":
            self.accepted = True
            self._await_ping()
            self.connection.resume_reading()
            if self.early:
                self.feed(self.early)
        elif kind == "websocket.close":
            self.closed = message.get("code") or 1000
        await self.connection.drain()

    def _events(self, kind: str, message: Message) -> list[Event]:
        if kind == "websocket.accept":
            headers = list(message.get("headers", ()))
            return [AcceptConnection(subprotocol=message.get("subprotocol"), extra_headers=headers)]
        if kind == "websocket.send":
            text = message.get("text")
            return [BytesMessage(data=message["bytes"]) if text is None else TextMessage(data=text)]
        if kind == "websocket.http.response.start":
            headers = list(message.get("headers", ()))
            return [RejectConnection(status_code=message["status"], headers=headers, has_body=True)]
        if kind == "websocket.http.response.body":
            more = message.get("more_body", False)
            if not more:
                self.closed = 1000
            return [RejectData(data=message.get("body", b""), body_finished=not more)]
        if self.accepted:
            return [CloseConnection(code=message.get("code") or 1000, reason=message.get("reason") or "")]
        return [RejectConnection(status_code=403)]

    async def run(self, application: Application) -> None:
        """Serve it to its end and close the connection."""
        try:
            await application(self.scope, self.receive, self.send)
        except ConnectionResetError:
            pass
        except Exception:
            log.exception("The WebSocket %s failed", self.scope["path"])
            await self.send({"type": "websocket.close", "code": 1011})
        if self.closed is None:
            await self.send({"type": "websocket.close", "code": 1000})
        if self.pinging:
            self.pinging.cancel()
        if self.accepted:
            self.connection.resume_reading()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.ended.wait()
        self.connection.transport.close()

    def shut(self) -> None:
        """Say that the server goes away."""
        if self.accepted and self.closed is None:
            self._write(CloseConnection(code=1001, reason="The server stops."))
        self._end(1001)

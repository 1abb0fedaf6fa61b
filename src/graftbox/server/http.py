"""HTTP/1.1 connections to one ASGI application, on h11 and asyncio's protocols; host.py accepts them.

It exists because Starlette and uvicorn alone take longer to import than the whole server
(benchmarks/imports.py). An ASGI application of theirs can still be served here. No TLS, no access log.
WebSockets are left to `graftbox.server.websocket`, where the application takes them, or to
`graftbox.server.tunnel`, where another server does. A client that goes away
does not cancel what it asked for: ``receive`` says so, once the body has been read, to whom it concerns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import h11

if TYPE_CHECKING:
    from graftbox.server.host import Host
    from graftbox.server.tunnel import Tunnel
    from graftbox.server.websocket import WebSocket

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

KEEP_ALIVE = 75.0
"""Seconds an idle connection stays open; longer than the pools of the usual clients keep theirs."""
STALLED = 75.0
"""Seconds without a byte after which the rest of a request body is no longer waited for."""
UNREAD = 600.0
"""Seconds after which a client that does not read its answer is dropped."""
LINGER = 2.0
"""Seconds in which the rest of a refused body is thrown away, so that the client gets to read the answer."""
_BUFFER = 256 * 1024

log = logging.getLogger("graftbox.http")


class Exchange:
    """One request and its response."""

    def __init__(self, connection: Connection, scope: Message) -> None:
        self.connection = connection
        self.scope = scope
        self.body = bytearray()
        self.complete = False
        self.delivered = False
        self.disconnected = False
        self.arrived = asyncio.Event()
        self.status = 0
        self.head = b""

    async def receive(self) -> Message:
        """The next part of the body; after its end it waits until the client hangs up or has its answer."""
        self.connection.invite()
        while not (self.body or self.disconnected or (self.complete and not self.delivered)):
            self.arrived.clear()
            self.connection.resume_reading()
            try:
                async with asyncio.timeout(None if self.delivered else STALLED):
                    await self.arrived.wait()
            except TimeoutError:
                self.disconnect()
                self.connection.transport.close()
        if not self.body and (self.delivered or not self.complete):
            return {"type": "http.disconnect"}
        chunk, self.body = bytes(self.body), bytearray()
        self.delivered = self.complete
        return {"type": "http.request", "body": chunk, "more_body": not self.complete}

    def disconnect(self) -> None:
        self.disconnected = True
        self.arrived.set()

    async def send(self, message: Message) -> None:
        """Raises `ConnectionResetError` when nobody is there any more to read it."""
        if self.connection.transport.is_closing():
            raise ConnectionResetError("The client went away before it had its answer.")
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            # An unread request body would be taken for the next request: close instead.
            if not self.complete:
                headers.append((b"connection", b"close"))
            # Kept for the first part of the body, so that a short answer is one packet.
            self.head = self.connection.encode(h11.Response(status_code=self.status, headers=headers))
        else:
            data, self.head = self.head, b""
            if (body := message.get("body", b"")) and self.scope["method"] != "HEAD":
                data += self.connection.encode(h11.Data(data=body))
            if not message.get("more_body", False):
                data += self.connection.encode(h11.EndOfMessage())
                self.disconnect()
            self.connection.write(data)
            await self.connection.drain()

    async def run(self, application: Application) -> None:
        try:
            await application(self.scope, self.receive, self.send)
        except ConnectionResetError:
            log.debug("%s %s: the client went away", self.scope["method"], self.scope["path"])
        except Exception:
            log.exception("%s %s failed", self.scope["method"], self.scope["path"])
            self.connection.refuse(500, b"An unexpected error occurred. Please try again later.")


class Connection(asyncio.Protocol):
    """One client connection: a sequence of exchanges, one at a time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.connections = host.connections
        self.websocket: WebSocket | Tunnel | None = None
        self.lingering = False
        self.http = h11.Connection(h11.SERVER)
        self.exchange: Exchange | None = None
        self.task: asyncio.Task[None] | None = None
        self.idle: asyncio.TimerHandle | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if len(self.connections) >= self.host.max_connections:
            oldest_idle = next((each for each in self.connections if not each.busy), self)
            self.connections.pop(oldest_idle, None)
            oldest_idle.transport.abort()
            if oldest_idle is self:
                return
        self.connections[self] = None
        self._wait_for_request()

    @property
    def busy(self) -> bool:
        return self.exchange is not None or self.websocket is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.pop(self, None)
        if self.idle:
            self.idle.cancel()
        self.writable.set()
        if self.exchange:
            self.exchange.disconnect()
        if self.websocket:
            self.websocket.lost()

    def data_received(self, data: bytes) -> None:
        if self.websocket:
            self.websocket.feed(data)
            return
        if self.lingering:
            return
        self.http.receive_data(data)
        self._pump()

    def eof_received(self) -> bool:
        # A half-closed client still wants its answer, which an application that asks for disconnects may end
        # early; without an exchange the connection is over.
        if self.websocket or self.lingering:
            return False
        self.http.receive_data(b"")
        self._pump()
        if self.exchange:
            self.exchange.disconnect()
        return self.exchange is not None

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def pause_reading(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.paused:
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
            if self.websocket is None and not self.lingering:
                self._pump()

    async def drain(self) -> None:
        """Wait until what was written has mostly left."""
        if self.writable.is_set():
            return
        try:
            async with asyncio.timeout(UNREAD):
                await self.writable.wait()
        except TimeoutError:
            self.transport.abort()

    def invite(self) -> None:
        """Ask for the body, of a client that waits to be asked."""
        if self.http.they_are_waiting_for_100_continue and self.http.our_state is h11.SEND_RESPONSE:
            self.write(self.encode(h11.InformationalResponse(status_code=100, headers=[])))

    def encode(self, event: h11.Event) -> bytes:
        return self.http.send(event) or b""

    def write(self, data: bytes) -> None:
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def refuse(self, status: int, detail: bytes) -> None:
        """Answer ``{"detail": …}`` and close; for what never reached the application, or failed in it."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = b'{"detail":"' + detail + b'"}'
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        self.write(b"".join(map(self.encode, events)))
        self.transport.close()

    def _pump(self) -> None:
        """Hand what has arrived to the current exchange, starting one when a request is complete."""
        while not self.paused:
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError as error:
                if self.exchange:
                    self.exchange.disconnect()
                self.refuse(error.error_status_hint, b"Invalid HTTP request")
                return
            if event is h11.NEED_DATA:
                return
            if event is h11.PAUSED:
                # The next request waits in the kernel, not in our memory.
                self.pause_reading()
                return
            if isinstance(event, h11.Request):
                self._begin(event)
                if self.websocket:
                    return
            elif isinstance(event, h11.ConnectionClosed):
                if self.exchange is None:
                    self.transport.close()
                return
            elif self.exchange:
                self._feed(self.exchange, event)

    def _begin(self, request: h11.Request) -> None:
        if self.idle:
            self.idle.cancel()
        scope = _scope(request)
        if _is_upgrade(request) and self.host.tunnels(scope["path"]):
            self._tunnel(scope)
            return
        if _is_upgrade(request) and self.host.takes_websockets(scope["path"]):
            self._upgrade(scope)
            return
        self.exchange = Exchange(self, scope)
        self._spawn(self._serve(self.exchange))

    def _upgrade(self, scope: Message) -> None:
        from graftbox.server.websocket import WebSocket

        websocket = WebSocket(self, scope)
        try:
            websocket.open(self.http.trailing_data[0])
        except Exception:  # wsproto's own errors, which are not imported to start
            self.refuse(400, b"Invalid WebSocket handshake")
            return
        self.websocket = websocket
        # The loop of `_pump` ends here: no more HTTP on this connection.
        self.paused = False
        self._spawn(websocket.run(self.host.application))

    def _tunnel(self, scope: Message) -> None:
        from graftbox.server.tunnel import Tunnel

        self.websocket = tunnel = Tunnel(self, scope)
        tunnel.feed(self.http.trailing_data[0])
        self._spawn(tunnel.run(self.host.application))

    def _feed(self, exchange: Exchange, event: object) -> None:
        if isinstance(event, h11.Data):
            exchange.body += event.data
            if len(exchange.body) > _BUFFER:
                self.pause_reading()
        elif isinstance(event, h11.EndOfMessage):
            exchange.complete = True
        exchange.arrived.set()

    async def _serve(self, exchange: Exchange) -> None:
        await exchange.run(self.host.application)
        self.exchange = None
        if self.transport.is_closing():
            return
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            self._wait_for_request()
            self.resume_reading()
        elif self.http.our_state is h11.MUST_CLOSE and self.http.their_state is h11.SEND_BODY:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Close once the client has stopped sending: closing at once would reset what it has yet to read."""
        self.lingering = True
        self.transport.write_eof()
        self.resume_reading()
        asyncio.get_running_loop().call_later(LINGER, self.transport.close)

    def _wait_for_request(self) -> None:
        self.idle = asyncio.get_running_loop().call_later(KEEP_ALIVE, self.transport.close)

    def _spawn(self, work: Any) -> None:
        # The reference keeps the task from being collected while it runs.
        self.task = asyncio.get_running_loop().create_task(work)


def _scope(request: h11.Request) -> Message:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
        "state": {},
    }


def _is_upgrade(request: h11.Request) -> bool:
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in request.headers)

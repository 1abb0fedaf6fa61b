"""The Chrome DevTools Protocol between one Chromium and many clients.

Chromium speaks over one channel: JSON messages, each with a NUL behind it. Its sessions are "flat": a message
for or from one carries its ``sessionId``, which Chromium puts last. Each client gets a browser-level session
of its own (``Target.attachToBrowserTarget``) that stands for the connection it believes to have: its id is
added to what the client sends without one, and taken away from what comes back. Sessions that Chromium opens
for a client (``Target.attachedToTarget``) belong to it, and are closed with it. So the numbers of requests
need no translation, and no message of Chromium's is parsed as a whole, however large a picture it brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graftbox.server.browser.client import Client
from graftbox.server.browser.errors import BrowserError, PageTimeoutError

PATIENCE = 30.0
"""Seconds that Chromium has for an answer, unless the caller says otherwise."""
TURN_AWAY_SECONDS = 5.0
MAX_MESSAGE = 512 * 1024 * 1024
"""Bytes of one message of Chromium's; a longer one is taken for the end of all sense."""
_SESSION = re.compile(rb',"sessionId":"([^"]{1,64})"\}$')
_TAIL = 96
_ANSWER = re.compile(rb'^\{"id":(\d{1,18}),')
_ATTACHED = re.compile(rb'^\{"method":"Target\.attachedToTarget","params":\{"sessionId":"([^"]{1,64})"')
_DETACHED = re.compile(rb'^\{"method":"Target\.detachedFromTarget","params":\{"sessionId":"([^"]{1,64})"')

Params = dict[str, Any]
Listener = Callable[[str, Params], None]


class ProtocolError(BrowserError):
    """Chromium refused a command; ``code`` is the protocol's."""

    def __init__(self, method: str, error: Params) -> None:
        super().__init__(f"{method}: {error.get('message', 'refused')}")
        self.code = error.get("code")


@dataclass(frozen=True)
class _Call:
    """A command that is on its way; ``future`` gets the answer, unread where it is ``raw``."""

    method: str
    session: str | None
    raw: bool
    future: asyncio.Future[Any]


def result_of(method: str, answer: Params) -> Params:
    """What an answer brings; raises `ProtocolError`."""
    if "error" in answer:
        raise ProtocolError(method, answer["error"])
    result: Params = answer.get("result", {})
    return result


class Router(asyncio.Protocol):
    """The one channel to a Chromium. ``ended`` is set when it is closed; every call fails from then on.

    ``pages`` are its pages by id, ``crashed`` those whose process has ended; ``turned_away`` counts, by
    context, the pages that were closed at once, as there were ``max_pages`` already. ``on``: who is told of
    other events of the browser's, by method.
    """

    def __init__(self, max_pages: int) -> None:
        self.max_pages = max_pages
        self.pages: dict[str, Params] = {}
        self.crashed: set[str] = set()
        self.turned_away: Counter[str] = Counter()
        self.on: dict[str, Callable[[Params], None]] = {}
        self.ended = asyncio.Event()
        self.clients: set[Client] = set()
        self._owners: dict[str, Client] = {}
        self._listeners: dict[str, Listener] = {}
        self._calls: dict[int, _Call] = {}
        self._count = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._closing: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls, channel: socket.socket, max_pages: int) -> Router:
        """Takes the socket over; raises `BrowserError` when Chromium is not there."""
        channel.setblocking(False)
        router = cls(max_pages)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: router, channel)
        return router

    # The asyncio side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
        self._writable.set()
        self._fail("The browser ended", list(self._calls))
        for client in list(self.clients):
            client.end("The browser ended.")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        *whole, rest = data.split(b"\0")
        for part in whole:
            self._parts.append(part)
            message = b"".join(self._parts)
            self._parts, self._size = [], 0
            self._take(message)
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > MAX_MESSAGE:
                self.close()

    def close(self) -> None:
        self.transport.abort()

    # From Chromium.

    def _take(self, message: bytes) -> None:
        found = _SESSION.search(message, max(0, len(message) - _TAIL))
        if found is None:
            self._own(json.loads(message))
            return
        session = found[1].decode()
        client = self._owners.get(session)
        if client is None:
            number = _ANSWER.match(message)
            call = self._calls.get(int(number[1])) if number else None
            if number is not None and (call is None or call.raw):
                # For nobody any more it is not read either.
                self._settle(int(number[1]), message)
            elif session in self._listeners:
                self._own(json.loads(message))
            return
        if (attached := _ATTACHED.match(message)) is not None:
            self._owners[attached[1].decode()] = client
            client.sessions.add(attached[1].decode())
        elif (detached := _DETACHED.match(message)) is not None:
            self._owners.pop(detached[1].decode(), None)
            client.sessions.discard(detached[1].decode())
        client.deliver(message[: found.start()] + b"}" if session == client.session else message)

    def _own(self, message: Params) -> None:
        """A message for the server itself."""
        if "id" in message:
            self._settle(message["id"], message)
            return
        method, params = message["method"], message["params"]
        if "sessionId" in message:
            self._listeners[message["sessionId"]](method, params)
        elif method in ("Target.targetCreated", "Target.targetInfoChanged"):
            self._note(params["targetInfo"], new=method == "Target.targetCreated")
        elif method == "Target.targetCrashed":
            self.crashed.add(params["targetId"])
        elif method == "Target.targetDestroyed":
            self.pages.pop(params["targetId"], None)
            self.crashed.discard(params["targetId"])
        elif method == "Target.detachedFromTarget":
            self._lose(params["sessionId"])
        elif method in self.on:
            self.on[method](params)

    def _note(self, target: Params, *, new: bool) -> None:
        if target["type"] != "page":
            return
        if new and len(self.pages) >= self.max_pages:
            self.turned_away[target.get("browserContextId", "")] += 1
            self._later(self._turn_away(target["targetId"]))
            return
        if new or target["targetId"] in self.pages:
            self.pages[target["targetId"]] = target

    async def _turn_away(self, target: str) -> None:
        """Close a page that is one too many.

        A client may have new pages wait for it. The process of one that is closed while it waits would hang,
        and with it the page that has opened it.
        """
        session = await self.attach(target, lambda method, params: None)
        with contextlib.suppress(PageTimeoutError):
            await self.call("Runtime.runIfWaitingForDebugger", session=session, timeout=TURN_AWAY_SECONDS)
        await self.call("Target.closeTarget", {"targetId": target})

    def _lose(self, session: str) -> None:
        """Chromium has ended one of the sessions that were opened here."""
        if (client := self._owners.pop(session, None)) is not None and session == client.session:
            client.end("The browser ended the session.")
        if (listener := self._listeners.pop(session, None)) is not None:
            listener("Inspector.detached", {"reason": "target_closed"})
        self.abandon(session, "The page was closed")

    def abandon(self, session: str, reason: str) -> None:
        """Fail the calls to a session that gives no answers any more."""
        self._fail(reason, [number for number, call in self._calls.items() if call.session == session])

    def _fail(self, reason: str, numbers: list[int]) -> None:
        for number in numbers:
            call = self._calls.pop(number)
            if not call.future.done():
                call.future.set_exception(BrowserError(f"{reason} before it answered {call.method}."))
                call.future.exception()  # nobody may wait for it any more

    def _settle(self, number: int, answer: Params | bytes) -> None:
        call = self._calls.pop(number, None)
        if call is not None and not call.future.done():
            call.future.set_result(answer)

    def later(self, method: str, params: Params) -> None:
        """A command whose answer does not matter."""
        self._later(self.call(method, params))

    def _later(self, work: Any) -> None:
        async def quietly() -> None:
            with contextlib.suppress(BrowserError, PageTimeoutError):
                await work

        task = asyncio.get_running_loop().create_task(quietly())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # To Chromium.

    def too_many(self) -> str | None:
        """What to say to who wants one more page, if there may be none."""
        if len(self.pages) < self.max_pages:
            return None
        return f"{len(self.pages)} pages are open, which is the limit; close one first."

    async def send(self, data: bytes) -> None:
        """Waits while Chromium takes nothing; raises `BrowserError`."""
        await self._writable.wait()
        if self.ended.is_set():
            raise BrowserError("The browser ended.")
        # In one piece: another client may not come in between.
        self.transport.writelines((data, b"\0"))

    async def call(
        self,
        method: str,
        params: Params | None = None,
        session: str | None = None,
        timeout: float = PATIENCE,
    ) -> Params:
        """The result of a command of the server's own.

        Raises `ProtocolError`, `PageTimeoutError` after ``timeout`` seconds, or `BrowserError`.
        """
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask(method, params, session)
        except TimeoutError as error:
            raise PageTimeoutError(f"No answer to {method} within {timeout:g} seconds.") from error
        return result_of(method, answer)

    async def fetch(self, method: str, params: Params, session: str) -> Any:
        """The answer to a command as the bytes that Chromium writes; raises `BrowserError`."""
        return await self._ask(method, params, session, raw=True)

    async def _ask(
        self, method: str, params: Params | None, session: str | None, *, raw: bool = False
    ) -> Any:
        self._count += 1
        number = self._count
        message: Params = {"id": number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = _Call(method, session, raw, future)
        try:
            await self.send(json.dumps(message).encode())
            return await future
        finally:
            self._calls.pop(number, None)

    async def watch_pages(self, timeout: float) -> None:
        """Know the pages that there are, from now on."""
        pages = [{"type": "page", "exclude": False}]
        await self.call("Target.setDiscoverTargets", {"discover": True, "filter": pages}, timeout=timeout)

    async def attach(self, target: str, listener: Listener, timeout: float = PATIENCE) -> str:
        """A session of the server's own with a page; ``listener`` gets its events."""
        result = await self.call(
            "Target.attachToTarget", {"targetId": target, "flatten": True}, None, timeout
        )
        session: str = result["sessionId"]
        self._listeners[session] = listener
        return session

    async def detach(self, session: str) -> None:
        """End a session, be it a page's or a client's."""
        self._listeners.pop(session, None)
        if not self.ended.is_set():
            with contextlib.suppress(BrowserError):
                await self.call("Target.detachFromTarget", {"sessionId": session}, timeout=5.0)

    async def connect(self) -> Client:
        """A new client."""
        session: str = (await self.call("Target.attachToBrowserTarget"))["sessionId"]
        client = Client(self, session)
        self.clients.add(client)
        self._owners[session] = client
        return client

    async def disconnect(self, client: Client) -> None:
        """End the client's sessions, and with them the contexts that it made for itself."""
        self.clients.discard(client)
        client.end("Closed.")
        for session in client.sessions:
            self._owners.pop(session, None)
        await self.detach(client.session)

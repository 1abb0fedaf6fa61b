"""One outside client of the Chrome DevTools Protocol: what waits for it, and what it may say."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftbox.server.browser.cdp import Params, Router

MAX_WAITING = 256 * 1024 * 1024
"""Bytes that may wait for one client to take them, before it is given up."""


class Client:
    """One connection from outside. `next` gives what Chromium has for it; `feed` takes what it sends."""

    def __init__(self, router: Router, session: str) -> None:
        self.router = router
        self.session = session
        self.sessions = {session}
        self.closed = False
        self.reason = ""
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._arrived = asyncio.Event()

    def deliver(self, message: bytes) -> None:
        """Have it sent to the client; one that does not keep up is given up."""
        self._size += len(message)
        if self._size > MAX_WAITING:
            self.end("This client reads too slowly.")
            return
        self._waiting.append(message)
        self._arrived.set()

    def end(self, reason: str) -> None:
        """There is nothing more to come, for this ``reason``; what waits is dropped."""
        if not self.closed:
            self.closed, self.reason = True, reason
            self._waiting.clear()
            self._arrived.set()

    async def next(self) -> bytes | None:
        """The next message; None at the end."""
        while not self._waiting:
            if self.closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._waiting.popleft()
        self._size -= len(message)
        return message

    async def feed(self, text: str) -> None:
        """A message from the client; what is no request of the protocol is answered with an error."""
        try:
            # A script or a page to be set may be long: that is read where it delays nobody.
            request = await asyncio.to_thread(json.loads, text) if len(text) > 262144 else json.loads(text)
            method, number, session = request["method"], request["id"], request.get("sessionId")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._refuse(None, None, "Message must be a JSON object with id and method.", -32600)
            return
        if session is not None and session not in self.sessions:
            self._refuse(number, session, "Session with given id not found.", -32001)
        elif method == "Browser.close" and session in (None, self.session):
            # The browser is everybody's: a client closes its own connection to it.
            self._answer(number, session, {})
            self._leave()
        elif method == "Target.createTarget" and (trouble := self.router.too_many()):
            self._refuse(number, session, trouble)
        else:
            data = text.encode("utf-8", "replace")
            if session is None:
                data = data.rstrip()[:-1] + b',"sessionId":"' + self.session.encode() + b'"}'
            await self.router.send(data)

    def _leave(self) -> None:
        asyncio.get_running_loop().call_soon(self.end, "Closed by the client.")

    def _refuse(self, number: Any, session: str | None, text: str, code: int = -32000) -> None:
        self._say({"id": number, "error": {"code": code, "message": text}}, session)

    def _answer(self, number: Any, session: str | None, result: Params) -> None:
        self._say({"id": number, "result": result}, session)

    def _say(self, message: Params, session: str | None) -> None:
        if session is not None:
            message["sessionId"] = session
        self.deliver(json.dumps(message).encode())

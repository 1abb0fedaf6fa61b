"""A WebSocket as the endpoints see it."""

from __future__ import annotations

import json
from typing import Any

from graftbox.server.http import Message, Receive, Send
from graftbox.server.request import Request
from graftbox.server.sandbox import Sandbox

PROTOCOL = "graftbox"


class Channel(Request):
    """The upgrade request, and the connection once it is accepted."""

    __slots__ = ("_send",)

    def __init__(
        self, sandbox: Sandbox, scope: Message, receive: Receive, send: Send, parameters: dict[str, str]
    ) -> None:
        super().__init__(sandbox, scope, receive, parameters)
        self._send = send

    async def accept(self) -> None:
        await self._receive()
        offered = self.scope["subprotocols"]
        await self._send(
            {"type": "websocket.accept", "subprotocol": PROTOCOL if PROTOCOL in offered else None}
        )

    async def receive(self) -> bytes | str | None:
        """The next message; None when the client has closed."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def send(self, data: bytes) -> None:
        """A binary message; waits while the client is slow, `ConnectionResetError` when it is gone."""
        await self._send({"type": "websocket.send", "bytes": data})

    async def send_text(self, text: str) -> None:
        """A text message; otherwise as `send`."""
        await self._send({"type": "websocket.send", "text": text})

    async def tell(self, value: Any) -> None:
        """A text message of JSON."""
        await self.send_text(json.dumps(value))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close codes as in RFC 6455; ``reason`` is cut to the 123 bytes that fit."""
        cut = reason.encode()[:120].decode("utf-8", "ignore")
        await self._send({"type": "websocket.close", "code": code, "reason": cut})

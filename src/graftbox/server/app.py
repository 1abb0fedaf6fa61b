"""The HTTP face of the server: an ASGI application with the model's endpoints, codes and error shapes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from graftbox.errors import GraftboxError
from graftbox.server.http import Message, Receive, Send
from graftbox.server.sandbox import Sandbox
from graftbox.wire.actions import InvalidActionError, parse

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request body."""

log = logging.getLogger("graftbox.app")

Endpoint = Callable[[bytes], Awaitable["Answer"]]
Answer = tuple[int, Any]
_OPEN = frozenset(("/alive", "/server_info"))
_KEY_HEADER = b"x-session-api-key"


class App:
    """``key`` None leaves every endpoint open."""

    def __init__(self, sandbox: Sandbox, key: str | None, max_body: int = MAX_BODY) -> None:
        self.sandbox = sandbox
        self.key = key.encode() if key is not None else None
        self.max_body = max_body
        self.routes: dict[str, dict[str, Endpoint]] = {
            "/alive": {"GET": self._alive},
            "/server_info": {"GET": self._server_info},
            "/execute_action": {"POST": self._execute_action},
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status, answer = await self._answer(scope, receive)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            status, answer = 500, {"detail": "An unexpected error occurred. Please try again later."}
        await _respond(send, status, answer, self.routes.get(scope["path"], {}))

    async def _answer(self, scope: Message, receive: Receive) -> Answer:
        path = scope["path"]
        if path not in _OPEN and not self._authorised(scope["headers"]):
            return 403, {"detail": "Invalid API Key"}
        methods = self.routes.get(path)
        if methods is None:
            return 404, {"detail": "Not Found"}
        endpoint = methods.get(scope["method"])
        if endpoint is None:
            return 405, {"detail": "Method Not Allowed"}
        body = await self._body(scope["headers"], receive)
        if body is None:
            return 413, {"detail": f"The request body is larger than {self.max_body} bytes."}
        return await endpoint(body)

    def _authorised(self, headers: list[tuple[bytes, bytes]]) -> bool:
        if self.key is None:
            return True
        import hmac  # brings libcrypto in, which no start should wait for

        given = next((value for name, value in headers if name == _KEY_HEADER), b"")
        return hmac.compare_digest(given, self.key)

    async def _body(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes | None:
        announced = next((value for name, value in headers if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self.max_body:
            return None
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            chunks.append(message["body"])
            size += len(message["body"])
            if size > self.max_body:
                return None
            if not message["more_body"]:
                return b"".join(chunks)

    async def _alive(self, body: bytes) -> Answer:
        return 200, {"status": "ok"}

    async def _server_info(self, body: bytes) -> Answer:
        return 200, await asyncio.to_thread(self.sandbox.clock.info)

    async def _execute_action(self, body: bytes) -> Answer:
        self.sandbox.clock.action()
        try:
            request = json.loads(body)
        except json.JSONDecodeError as error:
            return _invalid(
                {
                    "type": "json_invalid",
                    "loc": ("body", error.pos),
                    "msg": "JSON decode error",
                    "input": {},
                    "ctx": {"error": error.msg},
                }
            )
        except (UnicodeDecodeError, RecursionError):
            return _invalid(
                {"type": "json_invalid", "loc": ("body", 0), "msg": "JSON decode error", "input": {}}
            )
        if not isinstance(request, dict):
            return _invalid(
                {
                    "type": "model_attributes_type",
                    "loc": ("body",),
                    "msg": "Input should be a valid dictionary or object to extract fields from",
                    "input": request,
                }
            )
        if "action" not in request:
            return _invalid(
                {"type": "missing", "loc": ("body", "action"), "msg": "Field required", "input": request}
            )
        if not isinstance(request["action"], dict):
            return _invalid(
                {
                    "type": "dict_type",
                    "loc": ("body", "action"),
                    "msg": "Input should be a valid dictionary",
                    "input": request["action"],
                }
            )
        try:
            return 200, (await self.sandbox.execute(parse(request["action"]))).to_json()
        except (InvalidActionError, GraftboxError) as error:
            return 500, {"detail": f"Internal server error: {error}"}


def _invalid(error: dict[str, Any]) -> Answer:
    return 422, {"detail": "Invalid request parameters", "errors": str([error])}


async def _respond(send: Send, status: int, answer: Any, methods: dict[str, Endpoint]) -> None:
    body = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 405:
        headers.append((b"allow", ", ".join(methods).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

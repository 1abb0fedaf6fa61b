"""The HTTP face of the server: an ASGI application that checks the key and finds the endpoint."""

from __future__ import annotations

import contextlib
import errno
import logging
from functools import cached_property
from typing import TYPE_CHECKING

from graftbox.errors import (
    GraftboxError,
    NotFoundError,
    StorageError,
    TransportError,
    UnsupportedError,
    UsageError,
)
from graftbox.server import routes
from graftbox.server.http import Application, Message, Receive, Send
from graftbox.server.request import HTTPError, InvalidRequestError, Request, Response, answer
from graftbox.server.sandbox import Sandbox

if TYPE_CHECKING:
    from graftbox.server.idempotency import Answers

log = logging.getLogger("graftbox.app")

_KEY_HEADER = b"x-session-api-key"
_UNEXPECTED = "An unexpected error occurred. Please try again later."
_HARMLESS = frozenset(("GET", "HEAD", "OPTIONS"))
_STATUSES = (
    (UsageError, 400),
    (NotFoundError, 404),
    (UnsupportedError, 501),
    (StorageError, 507),
    (TransportError, 502),
)


class App:
    """``key`` None leaves every endpoint open."""

    def __init__(self, sandbox: Sandbox, key: str | None) -> None:
        self.sandbox = sandbox
        self.key = key.encode() if key is not None else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        response = await self._answer(scope, receive)
        if isinstance(response, Response):
            await _send(send, response, head=scope["method"] == "HEAD")
        else:
            await response(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive) -> Response | Application:
        """The answer, or the mounted application that will give it."""
        try:
            return await self._dispatch(scope, receive)
        except Exception as error:
            return refusal(error, f"{scope['method']} {scope['path']}")

    async def _dispatch(self, scope: Message, receive: Receive) -> Response | Application:
        path, method = scope["path"], scope["method"]
        self._authorise(scope)
        if mount := routes.mounted(path):
            return await mount(self.sandbox)
        found = routes.match(path)
        if found is None:
            raise HTTPError(404, "Not Found")
        route, parameters = found
        methods = routes.ROUTES[route]
        reference = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if reference is None:
            allowed = ((b"allow", ", ".join(_allowed(methods)).encode()),)
            if method == "OPTIONS":
                return Response(204, headers=allowed)
            raise HTTPError(405, "Method Not Allowed", allowed)
        request = Request(self.sandbox, scope, receive, parameters)
        endpoint = routes.endpoint(reference)
        if method == "POST" and request.header(b"idempotency-key") is not None and path.startswith("/v1/"):
            return await self._answers.once(request, endpoint)
        return await endpoint(request)

    @cached_property
    def _answers(self) -> Answers:
        from graftbox.server.idempotency import Answers

        return Answers()

    async def _connect(self, scope: Message, receive: Receive, send: Send) -> None:
        """Give a WebSocket to its endpoint; what goes wrong before it is accepted is an HTTP answer."""
        from graftbox.server.channel import Channel

        accepted = False

        async def watched(message: Message) -> None:
            nonlocal accepted
            accepted = accepted or message["type"] == "websocket.accept"
            await send(message)

        try:
            self._authorise(scope)
            found = routes.match(scope["path"])
            reference = routes.ROUTES[found[0]].get("WEBSOCKET") if found else None
            if found is None or reference is None:
                raise HTTPError(404, "Not Found")
            channel = Channel(self.sandbox, scope, receive, watched, found[1])
            await routes.socket(reference)(channel)
        except ConnectionResetError:
            raise
        except Exception as error:
            response = refusal(error, f"WebSocket {scope['path']}")
            if accepted:
                reason = str(error)[:100] if response.status < 500 else ""
                await send({"type": "websocket.close", "code": 1011, "reason": reason})
            else:
                await _send(send, response, kind="websocket.http")

    def _authorise(self, scope: Message) -> None:
        """Raises `HTTPError` 403."""
        if scope["path"] in routes.OPEN:
            return
        if self.key is None:
            # A page of some other site, open in a browser that reaches this port, is not the user.
            harmless = scope["type"] == "http" and scope["method"] in _HARMLESS
            refused = not harmless and _foreign(scope)
            reason = "A page of another origin can't use a server that has no key."
        else:
            refused, reason = not self._has_key(scope, self.key), "Invalid API Key"
        if scope["path"].startswith(routes.GATED):
            scope["state"]["trusted"] = not refused
        elif refused:
            raise HTTPError(403, reason)

    def _has_key(self, scope: Message, key: bytes) -> bool:
        import hmac  # brings libcrypto in, which no start should wait for

        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                value = value[7:]
            elif name != _KEY_HEADER:
                continue
            if hmac.compare_digest(value, key):
                return True
        for offer in scope.get("subprotocols", ()):
            # Browsers can't set headers on a WebSocket, so they may offer the key as a second subprotocol.
            prefix, _, text = offer.rpartition(".")
            if prefix == "graftbox.key" and hmac.compare_digest(_decoded(text), key):
                return True
        return False


def _decoded(text: str) -> bytes:
    """base64url, whose padding a subprotocol can't have."""
    from base64 import urlsafe_b64decode

    with contextlib.suppress(ValueError):
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return b""


def _foreign(scope: Message) -> bool:
    """Whether a browser asks for a page that is not this server's own.

    Whoever owns a name can make it mean this server's address (DNS rebinding): a number can't be made to.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is None:
        return False
    host = origin.rpartition(b"//")[2]
    name = host if host.endswith(b"]") else host.rpartition(b":")[0] or host
    own = name == b"localhost" or name.startswith(b"[") or not name.strip(b"0123456789.")
    return host != headers.get(b"host") or not own


def _allowed(methods: object) -> list[str]:
    assert isinstance(methods, dict)
    names = [name for name in methods if name != "WEBSOCKET"]
    return [*names, *(["HEAD"] if "GET" in names and "HEAD" not in names else []), "OPTIONS"]


def refusal(error: Exception, what: str) -> Response:
    """The answer that tells of ``error``, which came of the request ``what``."""
    if isinstance(error, HTTPError):
        response = answer({"detail": error.detail}, error.status)
        response.headers = error.headers
        return response
    if isinstance(error, ConnectionResetError):
        return answer({"detail": "The client went away."}, 400)
    if isinstance(error, InvalidRequestError):
        return answer({"detail": "Invalid request parameters", "errors": str([error.error])}, 422)
    if status := _status(error):
        return answer({"detail": str(error) or _UNEXPECTED}, status)
    log.error("%s failed", what, exc_info=error)
    return answer({"detail": _UNEXPECTED}, 500)


def _status(error: Exception) -> int | None:
    """The HTTP status that says the same as ``error``, None for a mistake of ours."""
    status: int | None = getattr(error, "http_status", None)
    if status is not None:
        return status
    if isinstance(error, GraftboxError):
        return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 507
    # Both a fork and a thread that the process limit forbids; a thread's is no OSError.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "new thread" in str(error)):
        return 503
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE):
        return 503
    return None


async def _send(send: Send, response: Response, *, head: bool = False, kind: str = "http") -> None:
    start, part = f"{kind}.response.start", f"{kind}.response.body"
    body = response.body
    headers = list(response.headers)
    if response.status != 204:
        headers.insert(0, (b"content-type", response.content_type.encode()))
    if isinstance(body, bytes):
        if response.status != 204:
            headers.insert(1, (b"content-length", str(len(body)).encode()))
        await send({"type": start, "status": response.status, "headers": headers})
        await send({"type": part, "body": body})
        return
    async with contextlib.aclosing(body) as pieces:
        await send({"type": start, "status": response.status, "headers": headers})
        if not head:
            async for piece in pieces:
                await send({"type": part, "body": piece, "more_body": True})
        await send({"type": part, "body": b""})

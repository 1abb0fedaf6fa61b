"""The HTTP face of the server: an ASGI application that checks the key and finds the endpoint."""

from __future__ import annotations

import contextlib
import logging

from graftbox.errors import GraftboxError, NotFoundError, UnsupportedError, UsageError
from graftbox.server import routes
from graftbox.server.http import Application, Message, Receive, Send
from graftbox.server.request import HTTPError, InvalidRequestError, Request, Response, answer
from graftbox.server.sandbox import Sandbox

log = logging.getLogger("graftbox.app")

_KEY_HEADER = b"x-session-api-key"
_UNEXPECTED = "An unexpected error occurred. Please try again later."


class App:
    """``key`` None leaves every endpoint open."""

    def __init__(self, sandbox: Sandbox, key: str | None) -> None:
        self.sandbox = sandbox
        self.key = key.encode() if key is not None else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        response = await self._answer(scope, receive)
        if isinstance(response, Response):
            await _send(send, response)
        else:
            await response(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive) -> Response | Application:
        """The answer, or the mounted application that will give it."""
        try:
            return await self._dispatch(scope, receive)
        except HTTPError as error:
            response = answer({"detail": error.detail}, error.status)
            response.headers = error.headers
            return response
        except GraftboxError as error:
            return answer({"detail": str(error)}, _status(error))
        except ConnectionResetError:
            return answer({"detail": "The client went away."}, 400)
        except InvalidRequestError as error:
            return answer({"detail": "Invalid request parameters", "errors": str([error.error])}, 422)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            return answer({"detail": _UNEXPECTED}, 500)

    async def _dispatch(self, scope: Message, receive: Receive) -> Response | Application:
        path = scope["path"]
        if path not in routes.OPEN and not self._authorised(scope["headers"]):
            raise HTTPError(403, "Invalid API Key")
        if mount := routes.mounted(path):
            return await mount(self.sandbox)
        found = routes.match(path)
        if found is None:
            raise HTTPError(404, "Not Found")
        route, parameters = found
        methods = routes.ROUTES[route]
        reference = methods.get(scope["method"])
        if reference is None:
            raise HTTPError(405, "Method Not Allowed", ((b"allow", ", ".join(methods).encode()),))
        return await routes.endpoint(reference)(Request(self.sandbox, scope, receive, parameters))

    def _authorised(self, headers: list[tuple[bytes, bytes]]) -> bool:
        if self.key is None:
            return True
        import hmac  # brings libcrypto in, which no start should wait for

        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                value = value[7:]
            elif name != _KEY_HEADER:
                continue
            if hmac.compare_digest(value, self.key):
                return True
        return False


def _status(error: GraftboxError) -> int:
    """The HTTP status that says the same as ``error``."""
    for kind, status in ((UsageError, 400), (NotFoundError, 404), (UnsupportedError, 501)):
        if isinstance(error, kind):
            return status
    return 500


async def _send(send: Send, response: Response) -> None:
    body = response.body
    headers = [(b"content-type", response.content_type.encode()), *response.headers]
    if isinstance(body, bytes):
        headers.insert(1, (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async with contextlib.aclosing(body) as pieces:
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})

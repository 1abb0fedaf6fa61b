"""One HTTP request as the endpoints see it, and what they answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graftbox.server.http import Message, Receive

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox
    from graftbox.server.schema import Schema

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request body that is read as a whole, unless the settings say otherwise."""
MAX_JSON = 16 * 1024 * 1024
"""Bytes of a JSON request body under /v1."""


class HTTPError(Exception):
    """An answer other than success; ``detail`` is for the user and says what to do next."""

    def __init__(self, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class InvalidRequestError(Exception):
    """A body that is not what the endpoint takes; answered as the model's validation does."""

    def __init__(self, kind: str, where: tuple[str | int, ...], text: str, given: Any, **more: Any) -> None:
        super().__init__(text)
        self.error = {"type": kind, "loc": where, "msg": text, "input": given, **more}


@dataclass(slots=True)
class Response:
    """``body`` as bytes, or as pieces sent as they come; a generator is closed when the client goes away."""

    status: int
    body: bytes | AsyncGenerator[bytes] = b""
    content_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


def answer(value: Any, status: int = 200) -> Response:
    """``value`` as JSON."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(status, body)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


class Request:
    """``parameters`` are the parts of the path that the route names in braces."""

    __slots__ = ("_receive", "parameters", "sandbox", "scope")

    def __init__(
        self, sandbox: Sandbox, scope: Message, receive: Receive, parameters: dict[str, str]
    ) -> None:
        self.sandbox = sandbox
        self.scope = scope
        self.parameters = parameters
        self._receive = receive

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, the last of each name."""
        from urllib.parse import parse_qsl

        text = self.scope["query_string"].decode("ascii", "replace")
        return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        return next((value for key, value in self.scope["headers"] if key == name), None)

    async def stream(self) -> AsyncIterator[bytes]:
        """The body in pieces; raises `ConnectionResetError` when the client goes away before its end."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("The client went away before its request was complete.")
            yield message["body"]
            more = message["more_body"]

    async def body(self, limit: int | None = None) -> bytes:
        """The whole body; more than ``limit`` bytes, or than the settings allow, are a 413."""
        most = self.sandbox.settings.limits.max_body_bytes
        limit = most if limit is None else min(limit, most)
        announced = self.header(b"content-length") or b"0"
        too_large = HTTPError(413, f"The request body is larger than {limit} bytes.")
        if announced.isdigit() and int(announced) > limit:
            raise too_large
        chunks, size = [], 0
        async for chunk in self.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise too_large
        return b"".join(chunks)

    async def json(self, schema: Schema, limit: int = MAX_JSON) -> Any:
        """The body as JSON that fits ``schema``, its defaults filled in; anything else is a 422."""
        from graftbox.server.schema import MismatchError, check

        data = await self.body(limit)
        try:
            return check(json.loads(data, parse_constant=_no_number), schema, "body")
        except MismatchError as error:
            raise HTTPError(422, str(error)) from error
        except (ValueError, RecursionError) as error:
            raise HTTPError(422, f"The body is not JSON: {error}") from error

    def arguments(self, schemas: Mapping[str, Schema]) -> dict[str, Any]:
        """The query's parameters as ``schemas`` say, with their defaults; anything else is a 422."""
        from graftbox.server.schema import MismatchError, from_text

        given = self.query
        if unknown := [name for name in given if name not in schemas]:
            known = ", ".join(schemas) or "none"
            raise HTTPError(422, f"The query parameter {unknown[0]} is not known here; known are: {known}.")
        values = {}
        try:
            for name, schema in schemas.items():
                if name in given:
                    values[name] = from_text(given[name], schema, name)
                elif schema.get("x-required"):
                    raise MismatchError(f"The query parameter {name} is required.")
                elif "default" in schema:
                    values[name] = schema["default"]
        except MismatchError as error:
            raise HTTPError(422, str(error)) from error
        return values

    async def within(self, seconds: float, event: Coroutine[Any, Any, object]) -> None:
        """Wait for ``event``, but no longer than ``seconds`` and than the client does."""
        waiting = asyncio.ensure_future(event)
        gone = asyncio.ensure_future(self.disconnected())
        # Once around the loop even when no time is given: the event may be over already.
        await asyncio.wait({waiting, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, gone):
            task.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)

    async def disconnected(self) -> None:
        """Returns when the client has gone away; only once the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

"""One request to a registry of our own, and the answers that the distribution spec knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from graftbox.errors import GraftboxError, NotFoundError, StorageError, TransportError, UnsupportedError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = "application/json"
STALLED = 300.0
"""Seconds that a client may leave a blob unread."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class RefusedError(Exception):
    """An answer other than success, with one of the spec's error codes."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    @classmethod
    def of(cls, error: GraftboxError) -> RefusedError:
        """What a client is told about an error behind the scenes."""
        if isinstance(error, NotFoundError):
            return cls(404, "MANIFEST_UNKNOWN", str(error))
        if isinstance(error, UnsupportedError):
            return cls(404, "UNSUPPORTED", str(error))
        if isinstance(error, TransportError) and error.status == 429:
            # What upstream asks of us is asked of whoever makes us ask.
            return cls(429, "TOOMANYREQUESTS", str(error), error.retry_after)
        if isinstance(error, TransportError) and error.retry_after is not None:
            return cls(503, "UNAVAILABLE", str(error), error.retry_after)
        return cls(503 if isinstance(error, StorageError) else 502, "UNAVAILABLE", str(error))


@dataclass(frozen=True)
class Request:
    """A GET or HEAD; ``headers`` have lower-case names."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    query: Mapping[str, str]
    receive: Receive
    send: Send

    @property
    def wants_body(self) -> bool:
        return self.method != "HEAD"

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of an answer."""
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        lines.append((b"docker-distribution-api-version", b"registry/2.0"))
        await self.send({"type": "http.response.start", "status": status, "headers": lines})

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """A whole answer; a HEAD gets only its head."""
        await self.start(status, {"Content-Length": str(len(body)), **headers})
        await self.send({"type": "http.response.body", "body": body if self.wants_body else b""})

    async def refuse(self, error: RefusedError) -> None:
        """An error as the spec writes it."""
        body = json.dumps({"errors": [{"code": error.code, "message": str(error), "detail": None}]})
        more = {"Allow": "GET, HEAD"} if error.status == 405 else {}
        if error.retry_after is not None:
            more["Retry-After"] = str(math.ceil(error.retry_after))
        await self.answer(error.status, {"Content-Type": JSON, **more}, body.encode())

    def has(self, digest: str) -> bool:
        """Whether the client says that it already has these bytes."""
        tags = self.headers.get(b"if-none-match", b"").decode("latin-1").split(",")
        return f'"{digest}"' in {tag.strip().removeprefix("W/") for tag in tags}

    async def unchanged(self, headers: Mapping[str, str]) -> None:
        await self.start(304, headers)
        await self.send({"type": "http.response.body"})

    def span(self, size: int) -> tuple[int, int]:
        """The bytes that are wanted of ``size``: from, and up to but without.

        Several ranges at once, and other units than bytes, get everything, as RFC 9110 allows.
        """
        match = _RANGE.fullmatch(self.headers.get(b"range", b"").decode("latin-1").strip())
        if match is None or not any(match.groups()):
            return 0, size
        first, last = match.groups()
        if not first:
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), min(size, int(last) + 1) if last else size
        if start >= end:
            raise RefusedError(416, "RANGE_INVALID", f"There are only {size} bytes.")
        return start, end

    async def send_chunks(
        self, status: int, headers: Mapping[str, str], chunks: Iterator[bytes], threads: Executor
    ) -> None:
        """Reads in a thread, one chunk at a time, and sends no faster than the client takes.

        An error before the first chunk is raised. After it the answer can only be cut off, and the
        error is raised too, for the log.
        """
        loop = asyncio.get_running_loop()
        started = False
        async with _gone(self.receive) as gone:
            try:
                while (chunk := await loop.run_in_executor(threads, next, chunks, None)) is not None:
                    if gone.done():
                        return
                    if not started:
                        await self.start(status, headers)
                        started = True
                    async with asyncio.timeout(STALLED):
                        await self.send({"type": "http.response.body", "body": chunk, "more_body": True})
                if not started:
                    await self.start(status, headers)
                await self.send({"type": "http.response.body"})
            except GraftboxError as error:
                if started:
                    raise BrokenOffError(str(error)) from error
                raise
            except TimeoutError as error:
                raise BrokenOffError(f"The client read nothing for {STALLED:.0f} s.") from error
            finally:
                await loop.run_in_executor(threads, _close, chunks)


class BrokenOffError(Exception):
    """An answer that was begun and cannot be completed: its connection must be closed."""


@contextlib.asynccontextmanager
async def _gone(receive: Receive) -> AsyncIterator[asyncio.Task[None]]:
    """A task that is done when the client has hung up."""

    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(wait())
    try:
        yield task
    finally:
        task.cancel()


def _close(chunks: Iterator[bytes]) -> None:
    # After a cancellation it may still be running in another thread; then it ends by itself.
    with contextlib.suppress(ValueError):
        getattr(chunks, "close", lambda: None)()


def identity(digest: str) -> dict[str, str]:
    """The headers by which an answer says what its bytes are."""
    return {"Docker-Content-Digest": digest, "ETag": f'"{digest}"'}


def cut(chunks: Iterator[bytes], first: int, last: int) -> Iterator[bytes]:
    """The bytes from ``first`` up to ``last`` of a stream that cannot be entered in the middle."""
    position = 0
    try:
        for chunk in chunks:
            part = chunk[max(0, first - position) : max(0, last - position)]
            position += len(chunk)
            if part:
                yield part
            if position >= last:
                return
    finally:
        _close(chunks)

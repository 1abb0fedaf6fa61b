"""Answers that a repeated request gets again: the ``Idempotency-Key`` header of POST requests below /v1.

A client whose connection broke sends the same request with the same key again: it gets the answer of the
first one, and waits for it where that is still at work. The first one is therefore not cancelled when its
client goes away. Answers are kept for an hour, in bounded memory, and only those that a repetition would not
better: none with status 429 or from 500.
"""

from __future__ import annotations

import asyncio
import hashlib
import time

from graftbox.server.http import Message
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.routes import Endpoint

KEEP_SECONDS = 3600.0
MAX_ENTRIES = 1000
MAX_BYTES = 32 * 1024 * 1024
"""Of all kept answers together; the oldest ones go first."""
MAX_KEY = 255
MAX_BODY = 16 * 1024 * 1024


class Entry:
    """One key: ``fingerprint`` is of its first request, ``work`` what answers it."""

    def __init__(self, fingerprint: bytes, work: asyncio.Task[Response]) -> None:
        self.fingerprint = fingerprint
        self.work = work
        self.started = time.monotonic()

    @property
    def size(self) -> int:
        body = self.work.result().body if self.work.done() and not self.work.cancelled() else b""
        return len(body) if isinstance(body, bytes) else 0

    @property
    def is_over(self) -> bool:
        return self.work.done() and time.monotonic() - self.started > KEEP_SECONDS


class Answers:
    """The requests with a key that are at work, and the answers of those that were."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}

    async def once(self, request: Request, endpoint: Endpoint) -> Response:
        """The answer of ``endpoint``, or the one that the first request with this key got."""
        key = request.header(b"idempotency-key") or b""
        if not 0 < len(key) <= MAX_KEY:
            raise HTTPError(422, f"The Idempotency-Key must have 1 to {MAX_KEY} characters.")
        body = await request.body(MAX_BODY)
        fingerprint = _fingerprint(request, body)
        entry = self.entries.get(key)
        if entry is None or entry.is_over:
            self._clear()
            if len(self.entries) >= MAX_ENTRIES:
                raise HTTPError(429, f"{MAX_ENTRIES} requests with an Idempotency-Key are at work; wait.")
            work = asyncio.get_running_loop().create_task(_final(endpoint, _detached(request, body)))
            entry = self.entries[key] = Entry(fingerprint, work)
            work.add_done_callback(lambda _: self._settle(key, entry))
        elif entry.fingerprint != fingerprint:
            raise HTTPError(422, "This Idempotency-Key was used for another request; choose a new one.")
        return await asyncio.shield(entry.work)

    def _settle(self, key: bytes, entry: Entry) -> None:
        """Forget the answer if a repetition may do better, or if it is too large to keep."""
        status = 500 if entry.work.cancelled() else entry.work.result().status
        if status >= 500 or status == 429 or entry.size > MAX_BYTES // 4:
            self.entries.pop(key, None)
        self._clear()

    def _clear(self) -> None:
        """Drop answers, the oldest first, until the rest is within its bounds."""
        size = sum(entry.size for entry in self.entries.values())
        for key, entry in list(self.entries.items()):
            if not entry.is_over and size <= MAX_BYTES and len(self.entries) < MAX_ENTRIES:
                return
            if entry.work.done():
                size -= entry.size
                del self.entries[key]


async def _final(endpoint: Endpoint, request: Request) -> Response:
    """The answer as it can be given again: an error as its answer, a stream not at all."""
    from graftbox.server.app import refusal

    try:
        response = await endpoint(request)
    except Exception as error:
        return refusal(error, f"{request.scope['method']} {request.scope['path']}")
    if isinstance(response.body, bytes):
        return response
    await response.body.aclose()
    return answer({"detail": "A streamed answer can't be repeated; ask without Idempotency-Key."}, 422)


def _fingerprint(request: Request, body: bytes) -> bytes:
    scope = request.scope
    parts = (scope["method"].encode(), scope["raw_path"], scope["query_string"], body)
    return hashlib.sha256(b"\0".join(parts)).digest()


def _detached(request: Request, body: bytes) -> Request:
    """The request with its body read, whose client never goes away."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.get_running_loop().create_future()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.sandbox, request.scope, receive, request.parameters)

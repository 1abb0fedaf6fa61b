"""Output as JSON and as server-sent events: text where it is text, base64 where it is not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from graftbox.errors import StorageError
from graftbox.server.request import Request, Response
from graftbox.server.schema import Schema

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that nobody on the way takes the stream for dead."""
CHUNK = 64 * 1024

PIECE: Schema = {
    "title": "Piece",
    "description": "Bytes of an output: as text if they are UTF-8, else as base64.",
    "type": "object",
    "required": ["offset", "end"],
    "properties": {
        "offset": {
            "type": "integer",
            "description": "Of the first byte here; later than asked for where that is no longer kept.",
        },
        "end": {"type": "integer", "description": "Of the byte after the last one here: the next offset."},
        "closed": {"type": "boolean", "description": "Nothing will follow."},
        "text": {"type": "string"},
        "base64": {"type": "string", "contentEncoding": "base64"},
    },
}
Source = AsyncGenerator[tuple[int, bytes]]
"""Offsets and bytes, as they come."""
OFFSET: Schema = {"type": "integer", "minimum": 0, "maximum": 2**53}
QUERY: dict[str, Schema] = {
    "offset": {
        **OFFSET,
        "default": 0,
        "description": "Where to begin; counted in bytes from the very first.",
    },
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": 1024 * 1024,
        "default": CHUNK,
        "description": "Bytes at most.",
    },
    "wait": {
        "type": "number",
        "minimum": 0,
        "maximum": 600,
        "default": 0,
        "description": "Seconds to wait for something to come.",
    },
}


def split(data: bytes, *, whole: bool) -> tuple[dict[str, str], int]:
    """``data`` as ``{"text"}`` or ``{"base64"}``, and how many of its bytes that holds.

    Unless it is ``whole``, the beginning of a character at its end is left for the next piece.
    """
    try:
        return {"text": data.decode()}, len(data)
    except UnicodeDecodeError as error:
        if not whole and error.reason == "unexpected end of data" and error.end == len(data):
            return {"text": data[: error.start].decode()}, error.start
    return {"base64": base64.b64encode(data).decode("ascii")}, len(data)


def event(kind: str, data: Any, last: str | None = None) -> bytes:
    """One event; ``last`` is what the client sends as ``Last-Event-ID`` to go on after it."""
    head = f"event: {kind}\n" + (f"id: {last}\n" if last is not None else "")
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def stream(request: Request, events: AsyncGenerator[bytes]) -> Response:
    """``events`` as an answer that ends when the client goes away."""
    headers = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
    return Response(200, _alive(request, events), "text/event-stream", headers)


async def _alive(request: Request, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async def following() -> bytes | None:
        return await anext(events, None)

    gone = asyncio.ensure_future(request.disconnected())
    coming = asyncio.ensure_future(following())
    try:
        # At once, so that the client knows that it is connected.
        yield b": here\n\n"
        while True:
            await asyncio.wait({gone, coming}, timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                if (piece := coming.result()) is None:
                    return
                coming = asyncio.ensure_future(following())
                yield piece
            elif gone.done():
                return
            else:
                yield b": still here\n\n"
    finally:
        for task in (gone, coming):
            task.cancel()
        await asyncio.gather(gone, coming, return_exceptions=True)
        await events.aclose()


async def merged(sources: Mapping[str, Source]) -> AsyncIterator[tuple[str, int, bytes]]:
    """What comes from several sources, with the name of its source; ends when all have."""
    queue: asyncio.Queue[tuple[str, int, bytes] | None] = asyncio.Queue(1)

    async def carry(name: str, source: Source) -> None:
        with contextlib.suppress(StorageError):
            async with contextlib.aclosing(source):
                async for offset, data in source:
                    await queue.put((name, offset, data))
        await queue.put(None)

    tasks = [asyncio.ensure_future(carry(name, source)) for name, source in sources.items()]
    left = len(tasks)
    try:
        while left:
            if (item := await queue.get()) is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pieces(sources: Mapping[str, Source]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Each source's name and `PIECE`; a character that has come in part waits for its rest."""
    held: dict[str, tuple[int, bytes]] = {}
    async for name, offset, data in merged(sources):
        start, before = held.pop(name, (offset, b""))
        if start + len(before) != offset:
            # Bytes between the two are gone.
            yield name, _piece(start, before)
            start, before = offset, b""
        whole = before + data
        text, size = split(whole, whole=False)
        if size:
            yield name, {"offset": start, "end": start + size, **text}
        if size < len(whole):
            held[name] = (start + size, whole[size:])
    for name, (start, before) in held.items():
        yield name, _piece(start, before)


def _piece(offset: int, data: bytes) -> dict[str, Any]:
    return {"offset": offset, "end": offset + len(data), **split(data, whole=True)[0]}

"""Finding files by name, lines by pattern, and changes as they happen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from graftbox.server import search
from graftbox.server.api.files import ENTRY, FLAG, NAME, PATH, listed, place
from graftbox.server.entries import named, told
from graftbox.server.events import event, stream
from graftbox.server.openapi import EVENTS, Operation
from graftbox.server.request import HTTPError, Request, Response
from graftbox.server.schema import TEXT, Schema
from graftbox.server.watch import MAX_FOLDERS, Watch

MAX_WATCHES = 32
"""Streams of changes at the same time: each holds an inotify instance, of which a user may have 128."""
SEARCHES = 3
"""Searches of each kind at the same time; others wait for their turn."""
T = TypeVar("T")
_FOLDER: Schema = {**NAME, "default": "."}
_HIDDEN: Schema = {**FLAG, "description": "Names that begin with a dot, too."}
_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": 20_000, "default": 1000}
_TIMEOUT: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 600, "default": 30}
_TRUNCATED: Schema = {
    "type": ["string", "null"],
    "description": "`limit` or `timeout`, where there may be more.",
}
GLOB: dict[str, Schema] = {
    "pattern": {
        **TEXT,
        "minLength": 1,
        "x-bytes": True,
        "x-required": True,
        "description": "Relative to `path`: `*`, `?`, `[…]` within a name, `**` for any number of folders.",
    },
    "path": _FOLDER,
    "hidden": _HIDDEN,
    "limit": _LIMIT,
    "timeout": _TIMEOUT,
}
GREP: dict[str, Schema] = {
    "pattern": {**TEXT, "minLength": 1, "description": "A regular expression, as ripgrep has them."},
    "path": {**_FOLDER, "description": "A folder to look through, or one file."},
    "fixed": {**FLAG, "description": "The pattern is the text itself."},
    "ignore_case": FLAG,
    "hidden": _HIDDEN,
    "no_ignore": {**FLAG, "description": "Also what .gitignore and the like leave out."},
    "context": {"type": "integer", "minimum": 0, "maximum": 20, "default": 0},
    "limit": {**_LIMIT, "description": "Matching lines at most."},
    "timeout": _TIMEOUT,
}
_GLOBS: Schema = {
    "type": "array",
    "items": {**TEXT, "minLength": 1},
    "maxItems": 100,
    "default": [],
    "description": "Only files that fit one of these, and none of those that begin with `!`.",
}
GREP_QUERY: dict[str, Schema] = {
    **GREP,
    "pattern": {**GREP["pattern"], "x-required": True},
    "glob": {**TEXT, "minLength": 1, "description": "Only files that fit this."},
}
GREP_BODY: Schema = {
    "title": "Grep",
    "type": "object",
    "required": ["pattern"],
    "additionalProperties": False,
    "properties": {**GREP, "globs": _GLOBS},
}
PATHS: Schema = {
    "title": "Paths",
    "type": "object",
    "required": ["paths", "truncated"],
    "properties": {
        "paths": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path"],
                "properties": {
                    "path": ENTRY["properties"]["path"],
                    "path_encoded": ENTRY["properties"]["path_encoded"],
                },
            },
        },
        "truncated": _TRUNCATED,
    },
}
LINES: Schema = {
    "title": "Lines",
    "type": "object",
    "required": ["lines", "truncated"],
    "properties": {
        "lines": {
            "type": "array",
            "items": {
                "title": "Line",
                "type": "object",
                "required": ["path", "line", "text", "match", "spans"],
                "properties": {
                    "path": ENTRY["properties"]["path"],
                    "path_encoded": ENTRY["properties"]["path_encoded"],
                    "line": {"type": "integer", "description": "From 1."},
                    "text": {"type": "string", "description": f"At most {search.LONGEST_LINE} characters."},
                    "match": {"type": "boolean", "description": "False for a line of the context."},
                    "spans": {
                        "type": "array",
                        "items": {"type": "array", "items": {"type": "integer"}},
                        "description": "Where in the line it matches: from, to, in characters.",
                    },
                },
            },
        },
        "truncated": _TRUNCATED,
    },
}
WATCH: dict[str, Schema] = {
    "path": {**PATH, "description": "A folder or a file."},
    "recursive": {**FLAG, "description": f"All folders below, {MAX_FOLDERS} at most, new ones too."},
}
OPENAPI = {
    "glob": Operation("Files and folders by name", query=GLOB, answers={200: PATHS}, errors=(400, 404)),
    "grep": Operation(
        "Lines by pattern",
        "Searched by ripgrep. Binary files are left out. Paths are relative to the folder.",
        query=GREP_QUERY,
        answers={200: LINES},
        errors=(400, 404, 501),
    ),
    "grep_body": Operation(
        "Lines by pattern, in files by several globs",
        "Searched by ripgrep. Binary files are left out. Paths are relative to the folder.",
        body=GREP_BODY,
        answers={200: LINES},
        errors=(400, 404, 501),
    ),
    "watch": Operation(
        "Changes as they happen",
        "An event stream. An event `ready` comes first: what happens after it is told. Events are `created`, "
        "`modified` (more may follow), `written` (closed by its writer), `deleted`, `moved` (with `to`) and "
        "`attributes`; their data has `path`, relative to the one asked for, and `folder`. What was moved in "
        "from or out to elsewhere is `created` or `deleted`. After an `overflow` events are missing: list "
        "again.",
        query=WATCH,
        answers={200: EVENTS},
        errors=(400, 404, 429, 507),
    ),
}


async def glob(request: Request) -> Response:
    query = request.arguments(GLOB)
    path = place(request, query.pop("path"))
    async with _globs:
        with told(path):
            result = await request.sandbox.identity.call(search.glob, path, **query)
    return listed("paths", [named(each) for each in result.found], {"truncated": result.truncated})


async def grep(request: Request) -> Response:
    query = request.arguments(GREP_QUERY)
    only = query.pop("glob", None)
    return await _grep(request, {**query, "globs": [only] if only else []})


async def grep_body(request: Request) -> Response:
    return await _grep(request, await request.json(GREP_BODY))


async def _grep(request: Request, given: dict[str, Any]) -> Response:
    path = place(request, given.pop("path"))
    query = search.Query(**{**given, "globs": tuple(given["globs"])})
    identity = request.sandbox.identity
    async with _greps:
        with told(path):
            await identity.call(path.stat)
            result = await _unless_gone(request, search.grep(query, path, identity))
    return listed("lines", result.found, {"truncated": result.truncated})


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which ends early when nobody waits for it any more."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.disconnected())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError("The client went away.")
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


_greps = asyncio.Semaphore(SEARCHES)
_globs = asyncio.Semaphore(SEARCHES)
_watches: set[Watch] = set()


async def watch(request: Request) -> Response:
    query = request.arguments(WATCH)
    path = place(request, query["path"])
    if len(_watches) >= MAX_WATCHES:
        raise HTTPError(429, f"There are {MAX_WATCHES} watches already. Close one of them.")
    with told(path):
        watched = Watch(path, query["recursive"], request.sandbox.identity)
        try:
            await watched.open()
        except BaseException:
            watched.close()
            raise
    return stream(request, _changes(watched))


async def _changes(watched: Watch) -> AsyncGenerator[bytes]:
    _watches.add(watched)
    try:
        yield event("ready", {})
        async with contextlib.aclosing(watched.events()) as batches:
            async for batch in batches:
                yield b"".join(event(each.pop("type"), each) for each in batch)
    finally:
        _watches.discard(watched)
        # The kernel takes its time where there were many folders.
        await asyncio.shield(asyncio.to_thread(watched.close))

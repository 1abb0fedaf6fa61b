"""Files and folders by path: their bytes, their attributes, and changes to the tree.

Paths are absolute, or relative to the working directory. Everything is done as the sandbox's user: what that
user may not do is a 403.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from graftbox.server import transfer
from graftbox.server.entries import entry, etag, listing, located, told
from graftbox.server.openapi import Media, Operation
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.schema import TEXT, Schema
from graftbox.server.tree import make_folder, move_entry, remove
from graftbox.wire.actions import Edit

NAME: Schema = {
    **TEXT,
    "minLength": 1,
    "x-bytes": True,
    "description": "Absolute, or relative to the working directory. A name that is not UTF-8 is "
    "percent-encoded in a query, and written with lone surrogates (\\udcff for the byte ff) in JSON.",
}
PATH: Schema = {**NAME, "x-required": True}
FLAG: Schema = {"type": "boolean", "default": False}
ENTRY: Schema = {
    "title": "Entry",
    "type": "object",
    "required": ["path", "type", "size", "mode", "uid", "gid", "modified"],
    "properties": {
        "path": {"type": "string"},
        "path_encoded": {"type": "string", "description": "Only where the name is not UTF-8; as in a query."},
        "type": {"enum": ["file", "folder", "link", "special"]},
        "size": {"type": "integer", "description": "Bytes."},
        "mode": {"type": "string", "description": "Permission bits, in octal."},
        "uid": {"type": "integer"},
        "gid": {"type": "integer"},
        "modified": {"type": "number", "description": "Seconds since 1970."},
        "etag": {"type": "string", "description": "Only of files."},
        "target": {"type": "string", "description": "Only of links."},
        "target_encoded": {"type": "string"},
    },
}
ENTRIES: Schema = {
    "title": "Entries",
    "type": "object",
    "required": ["entries", "next"],
    "properties": {
        "entries": {"type": "array", "items": ENTRY},
        "next": {"type": ["string", "null"], "description": "`after` of the next page, null on the last."},
    },
}
MOVE: Schema = {
    "title": "Move",
    "type": "object",
    "required": ["from", "to"],
    "additionalProperties": False,
    "properties": {
        "from": NAME,
        "to": {**NAME, "description": "The new path itself, not a folder to move into."},
        "overwrite": {**FLAG, "description": "Replace a file or an empty folder that is there."},
        "parents": {**FLAG, "description": "Make missing folders."},
    },
}
MAKE: Schema = {
    "title": "MakeFolder",
    "type": "object",
    "required": ["path"],
    "additionalProperties": False,
    "properties": {
        "path": NAME,
        "parents": {**FLAG, "default": True, "description": "Make missing folders above it."},
        "exist_ok": {**FLAG, "description": "Not an error if the folder is there."},
        "mode": {"type": "string", "pattern": "^[0-7]{3,4}$"},
    },
}
_LINE = {"type": "integer", "minimum": -1, "maximum": 1 << 31}
ONE_EDIT: Schema = {
    "title": "Edit",
    "type": "object",
    "required": ["path", "command"],
    "additionalProperties": False,
    "properties": {
        "path": NAME,
        "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "undo_edit"]},
        "file_text": {"type": "string"},
        "old_str": {"type": "string"},
        "new_str": {"type": "string"},
        "insert_line": {"type": "integer", "minimum": 0, "maximum": 1 << 31},
        "view_range": {"type": "array", "items": _LINE, "minItems": 2, "maxItems": 2},
    },
}
EDITS: Schema = {
    "title": "Edits",
    "type": "object",
    "required": ["edits"],
    "additionalProperties": False,
    "properties": {"edits": {"type": "array", "items": ONE_EDIT, "minItems": 1, "maxItems": 1000}},
}
EDITED: Schema = {
    "title": "Edited",
    "type": "object",
    "required": ["results"],
    "properties": {
        "results": {
            "type": "array",
            "items": {
                "title": "EditAnswer",
                "type": "object",
                "required": ["path", "text", "diff"],
                "properties": {
                    "path": {"type": "string"},
                    "text": {"type": "string", "description": "For the agent, with numbered lines."},
                    "diff": {"type": "string", "description": "Unified, without context."},
                },
            },
        }
    },
}
_AT_ONCE = 500
Headers = tuple[tuple[bytes, bytes], ...]
_BYTES = Media("application/octet-stream")
_CONDITIONS: dict[str, Schema] = {
    "If-Match": {"type": "string", "description": "Only if the file has one of these ETags, or `*`: exists."},
    "If-None-Match": {
        "type": "string",
        "description": "Only if it has none of them, or `*`: does not exist.",
    },
}
GET_CONTENT: dict[str, Schema] = {"path": PATH}
PUT_CONTENT: dict[str, Schema] = {
    "path": PATH,
    "mode": {"type": "string", "pattern": "^[0-7]{3,4}$", "description": "Permission bits, in octal."},
    "parents": {**FLAG, "default": True, "description": "Make missing folders."},
}
DELETE: dict[str, Schema] = {
    "path": PATH,
    "recursive": {**FLAG, "description": "A folder with all that is in it."},
}
STAT: dict[str, Schema] = {"path": PATH, "follow": {**FLAG, "description": "What a link leads to."}}
LIST: dict[str, Schema] = {
    "path": {**NAME, "default": "."},
    "recursive": {
        **FLAG,
        "description": "All levels, each folder before its content; links aren't followed.",
    },
    "hidden": {**FLAG, "default": True, "description": "Names that begin with a dot, too."},
    "limit": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1000},
    "after": {**TEXT, "x-bytes": True, "default": "", "description": "`next` of the page before."},
}
OPENAPI = {
    "read": Operation(
        "The bytes of a file",
        "Streamed. Takes a single byte range, with `If-Range` if wanted; answers 304 to an `If-None-Match` "
        "that has the file's ETag.",
        query=GET_CONTENT,
        headers={
            "Range": {"type": "string"},
            "If-Range": {"type": "string"},
            "If-None-Match": {"type": "string"},
        },
        answers={200: _BYTES, 206: _BYTES, 304: None},
        errors=(400, 404, 409, 416),
    ),
    "write": Operation(
        "Make or replace a file",
        "The body is streamed to a draft beside the file, which takes its place in one step: readers see the "
        "old content or the new, and a connection that breaks leaves the old. Mode, owner and extended "
        "attributes of a file that exists stay; a new one gets what the sandbox's umask leaves.",
        query=PUT_CONTENT,
        headers=_CONDITIONS,
        body=_BYTES,
        answers={200: ENTRY, 201: ENTRY},
        errors=(400, 404, 409, 412, 507),
    ),
    "delete": Operation(
        "Remove a file, link or folder",
        query=DELETE,
        headers={"If-Match": _CONDITIONS["If-Match"]},
        answers={204: None},
        errors=(400, 404, 409, 412),
    ),
    "move": Operation(
        "Give a file or folder another path",
        "In one step on one file system; between two it is copied first.",
        body=MOVE,
        answers={200: ENTRY},
        errors=(400, 404, 409, 507),
    ),
    "mkdir": Operation("Make a folder", body=MAKE, answers={201: ENTRY}, errors=(400, 404, 409, 507)),
    "stat": Operation("What is at a path", query=STAT, answers={200: ENTRY}, errors=(400, 404)),
    "list_folder": Operation(
        "The entries of a folder",
        "Paths are relative to the folder and in the order of their names, which is what `after` counts in: "
        "entries that come and go between two pages shift nothing.",
        query=LIST,
        answers={200: ENTRIES},
        errors=(400, 404, 409),
    ),
    "edit": Operation(
        "Edit text files",
        "The commands of the agent's editor, several at once: all of them are done, or, with a 409 that says "
        "which one can't be, none. Encoding and line ends of the files stay.",
        body=EDITS,
        answers={200: EDITED},
        errors=(409,),
    ),
}


def place(request: Request, text: str) -> Path:
    return located(text, request.sandbox.settings.working_dir)


def header(request: Request, name: bytes) -> str | None:
    value = request.header(name)
    return None if value is None else value.decode("latin-1")


async def read(request: Request) -> Response:
    path = place(request, request.arguments(GET_CONTENT)["path"])
    identity = request.sandbox.identity
    with told(path):
        file, found = await transfer.opened(path, identity)
    tag = etag(found)
    headers: Headers = ((b"etag", tag.encode()), (b"accept-ranges", b"bytes"))
    try:
        wanted = header(request, b"if-none-match")
        if wanted is not None and transfer.matches(wanted, tag):
            file.close()
            return Response(304, headers=headers)
        condition = header(request, b"if-range")
        part = None
        if condition is None or condition.strip() == tag:
            part = transfer.span(header(request, b"range"), found.st_size)
    except BaseException:
        file.close()
        raise
    # Files of the kernel's, as in /proc, have content but no size.
    sent = part or (transfer.Span(0, found.st_size - 1) if found.st_size else None)
    body = transfer.pieces(file, sent, identity)
    await anext(body)
    if sent:
        headers += ((b"content-length", str(sent.size).encode()),)
    if part:
        headers += ((b"content-range", f"bytes {part.first}-{part.last}/{found.st_size}".encode()),)
    return Response(206 if part else 200, body, _BYTES.content_type, headers)


async def write(request: Request) -> Response:
    query = request.arguments(PUT_CONTENT)
    path = place(request, query["path"])
    terms = transfer.Terms(
        header(request, b"if-match"),
        header(request, b"if-none-match"),
        int(query["mode"], 8) if "mode" in query else None,
        query["parents"],
    )
    length = header(request, b"content-length") or ""
    size = int(length) if length.isdigit() else None
    with told(path):
        new, found = await transfer.received(request.stream(), path, terms, request.sandbox.identity, size)
    response = answer(found, 201 if new else 200)
    response.headers = ((b"etag", found["etag"].encode()),)
    return response


async def delete(request: Request) -> Response:
    query = request.arguments(DELETE)
    path = place(request, query["path"])
    terms = transfer.Terms(if_match=header(request, b"if-match"))
    with told(path):
        await request.sandbox.identity.call(_delete, path, terms, query["recursive"])
    return Response(204)


def _delete(path: Path, terms: transfer.Terms, recursive: bool) -> None:
    terms.check(path)
    remove(path, recursive)


async def move(request: Request) -> Response:
    given = await request.json(MOVE)
    source, target = place(request, given["from"]), place(request, given["to"])
    call = request.sandbox.identity.call
    with told(source):
        await call(source.lstat)
    with told(target):
        await call(move_entry, source, target, given["overwrite"], given["parents"])
        return answer(await call(entry, target))


async def mkdir(request: Request) -> Response:
    given = await request.json(MAKE)
    path = place(request, given["path"])
    mode = int(given["mode"], 8) if "mode" in given else None
    call = request.sandbox.identity.call
    with told(path):
        await call(make_folder, path, given["parents"], given["exist_ok"], mode)
        return answer(await call(entry, path, follow=True), 201)


async def stat(request: Request) -> Response:
    query = request.arguments(STAT)
    path = place(request, query["path"])
    with told(path):
        return answer(await request.sandbox.identity.call(entry, path, follow=query["follow"]))


async def list_folder(request: Request) -> Response:
    query = request.arguments(LIST)
    path = place(request, query["path"])
    after = os.fsdecode(unquote_to_bytes(os.fsencode(query["after"])))
    with told(path):
        entries, following = await request.sandbox.identity.call(
            listing, path, query["recursive"], query["hidden"], query["limit"], after
        )
    return listed("entries", entries, {"next": following and quote(os.fsencode(following))})


def listed(key: str, items: Sequence[Any], rest: dict[str, Any]) -> Response:
    """``{key: items, **rest}``; a long list in parts, so that no other request waits for it."""
    if len(items) <= _AT_ONCE:
        return answer({key: items, **rest})
    return Response(200, _in_parts(key, items, rest))


async def _in_parts(key: str, items: Sequence[Any], rest: dict[str, Any]) -> AsyncGenerator[bytes]:
    yield f'{{"{key}":['.encode()
    for at in range(0, len(items), _AT_ONCE):
        part = json.dumps(items[at : at + _AT_ONCE])[1:-1]
        yield (f",{part}" if at else part).encode()
        await asyncio.sleep(0)
    yield f"],{json.dumps(rest)[1:]}".encode()


async def edit(request: Request) -> Response:
    given = await request.json(EDITS)
    sandbox = request.sandbox
    actions = [_action(request, each) for each in given["edits"]]
    results = await sandbox.editor.run_all(actions, sandbox.settings.working_dir, sandbox.identity)
    if (mistake := results[-1].content).startswith("ERROR:\n"):
        number = f" Edit {len(results)} of {len(actions)}:" if len(actions) > 1 else ""
        raise HTTPError(409, f"Nothing was changed.{number} {mistake.removeprefix('ERROR:').strip()}")
    return answer({"results": [{"path": r.path, "text": r.content, "diff": r.diff} for r in results]})


def _action(request: Request, given: dict[str, Any]) -> Edit:
    lines = given.get("view_range")
    fixed = {"path": str(place(request, given["path"])), "view_range": tuple(lines) if lines else None}
    return Edit(**{**given, **fixed})

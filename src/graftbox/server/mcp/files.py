"""The tools that work on files and folders."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import mcp_types as types

from graftbox.server.disk import open_regular
from graftbox.server.entries import listing, located, text_of, told
from graftbox.server.mcp.tool import CHANGES_FILES, READS, Call, Tool, failed, refused, said
from graftbox.server.schema import TEXT, Schema
from graftbox.server.search import Query, glob, grep
from graftbox.wire.actions import Edit, Read, Write
from graftbox.wire.observations import EditResult, Failure, ReadResult

MAX_LINES = 2000
MAX_TEXT = 100_000
"""Characters of a file that one call shows."""
MAX_PICTURE = 8 * 1024 * 1024
"""Bytes of a picture that is shown."""
PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}
MAX_FOUND = 1000
SEARCH_SECONDS = 30.0
_BINARY = Failure("ERROR_BINARY_FILE")


async def read(call: Call) -> types.CallToolResult:
    path, first, count = call.given["path"], call.given["offset"], call.given["limit"]
    if kind := PICTURES.get(Path(path).suffix.lower()):
        return await _shown(_located(call), kind, call)
    # One line more than asked for tells whether there are more.
    observation = await call.sandbox.execute(Read(path, start=first - 1, end=first + count))
    if observation == _BINARY:
        return failed(f"{path} is a binary file; look into it with the shell (file, xxd, strings).")
    if not isinstance(observation, ReadResult):
        return refused(observation)
    return said(_excerpt(observation.content, first, count))


async def _shown(path: Path, kind: str, call: Call) -> types.CallToolResult:
    with told(path):
        data = await call.sandbox.identity.call(_bytes, path)
    if len(data) > MAX_PICTURE:
        return failed(f"{path} has more than {MAX_PICTURE} bytes; make a smaller picture of it first.")
    return types.CallToolResult(content=[types.ImageContent(data=b64encode(data).decode(), mime_type=kind)])


def _bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(MAX_PICTURE + 1)


def _excerpt(text: str, first: int, count: int) -> str:
    lines = text.splitlines(keepends=True)
    kept = "".join(lines[:count])
    if len(kept) > MAX_TEXT:
        return f"{kept[:MAX_TEXT]}\n[Cut after {MAX_TEXT} characters; read fewer lines with limit.]"
    if len(lines) > count:
        return f"{kept}[The file goes on; read more with offset {first + count}.]"
    return kept


async def write(call: Call) -> types.CallToolResult:
    observation = await call.sandbox.execute(Write(call.given["path"], call.given["content"]))
    if isinstance(observation, Failure):
        return failed(observation.content)
    return said(f"Wrote {call.given['path']}.")


async def edit(call: Call) -> types.CallToolResult:
    given = dict(call.given)
    if "view_range" in given:
        given["view_range"] = tuple(given["view_range"])
    observation = await call.sandbox.execute(Edit(**given))
    if not isinstance(observation, EditResult | ReadResult):
        return refused(observation)
    if observation.content.startswith("ERROR"):
        return failed(observation.content)
    return said(observation.content)


async def list_folder(call: Call) -> types.CallToolResult:
    path = _located(call)
    with told(path):
        entries, following = await call.sandbox.identity.call(
            listing, path, call.given["recursive"], call.given["hidden"], MAX_FOUND, ""
        )
    lines = [_line(entry) for entry in entries]
    if following:
        lines.append(f"[Only the first {MAX_FOUND} entries.]")
    return said("\n".join(lines) or "[The folder is empty.]")


def _line(entry: dict[str, Any]) -> str:
    match entry["type"]:
        case "folder":
            return f"{entry['path']}/"
        case "link":
            return f"{entry['path']} -> {entry['target']}"
        case "file":
            return f"{entry['path']} ({entry['size']} bytes)"
        case _:
            return f"{entry['path']} (special)"


async def find(call: Call) -> types.CallToolResult:
    path = _located(call)
    with told(path):
        result = await call.sandbox.identity.call(
            glob, path, call.given["pattern"], call.given["hidden"], MAX_FOUND, SEARCH_SECONDS
        )
    lines = [text_of(found) for found in result.found]
    return said("\n".join([*lines, *_limits(result.truncated)]) or "[No file or folder fits the pattern.]")


async def search(call: Call) -> types.CallToolResult:
    given, path = call.given, _located(call)
    with told(path):
        found = await call.sandbox.identity.call(path.stat)
    query = Query(
        given["pattern"],
        ignore_case=given["ignore_case"],
        globs=(given["glob"],) if "glob" in given else (),
        hidden=given["hidden"],
        context=given["context"],
        limit=MAX_FOUND,
        timeout=SEARCH_SECONDS,
    )
    result = await grep(query, path, call.sandbox.identity)
    start = f"{os.fspath(path).rstrip('/')}/" if S_ISDIR(found.st_mode) else ""
    lines = []
    for match in result.found:
        mark = ":" if match["match"] else "-"
        lines.append(f"{match['path'].removeprefix(start)}{mark}{match['line']}{mark}{match['text']}")
    text = "\n".join([*lines, *_limits(result.truncated)])
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}\n[Cut after {MAX_TEXT} characters; narrow the search.]"
    return said(text or "[Nothing matches.]")


def _limits(reason: str | None) -> list[str]:
    if reason is None:
        return []
    limit = f"{MAX_FOUND} results" if reason == "limit" else f"{SEARCH_SECONDS:g} s"
    return [f"[The search ended after {limit}; narrow it to see the rest.]"]


def _located(call: Call) -> Path:
    return located(call.given["path"], call.sandbox.cwd)


_PATH: Schema = {**TEXT, "minLength": 1, "description": "Absolute, or relative to the shell's folder."}
_FOLDER: Schema = {**_PATH, "default": "."}
_HIDDEN: Schema = {"type": "boolean", "default": False, "description": "Also names that begin with a dot."}

READ = Tool(
    "read",
    "Read a file",
    f"Read a text file of the sandbox, at most {MAX_LINES} lines at once; pictures are shown.",
    {
        "path": _PATH,
        "offset": {"type": "integer", "minimum": 1, "default": 1, "description": "First line, from 1."},
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_LINES,
            "default": MAX_LINES,
            "description": "Number of lines.",
        },
    },
    ("path",),
    read,
    READS,
)
WRITE = Tool(
    "write",
    "Write a file",
    "Write a text file of the sandbox, replacing it if it exists; missing folders are made.",
    {"path": _PATH, "content": {"type": "string", "description": "The whole content."}},
    ("path", "content"),
    write,
    {**CHANGES_FILES, "idempotent_hint": True},
)
EDIT = Tool(
    "edit",
    "Edit a file",
    "Change a text file of the sandbox. str_replace replaces old_str, which must occur exactly once, by "
    "new_str; insert puts new_str after line insert_line (0: before the first); create makes a new file of "
    "file_text; undo_edit takes the last edit of the file back; view shows the file with line numbers, or a "
    "folder.",
    {
        "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "undo_edit"]},
        "path": {**_PATH, "description": "Absolute path."},
        "file_text": {"type": "string", "description": "For create."},
        "old_str": {
            "type": "string",
            "description": "For str_replace: the exact text, with enough lines around it to be unique.",
        },
        "new_str": {"type": "string", "description": "For str_replace and insert."},
        "insert_line": {"type": "integer", "minimum": 0, "description": "For insert."},
        "view_range": {
            "type": "array",
            "items": {"type": "integer"},
            "minItems": 2,
            "maxItems": 2,
            "description": "For view: first and last line; -1 is the end.",
        },
    },
    ("command", "path"),
    edit,
    CHANGES_FILES,
)
LIST = Tool(
    "list",
    "List a folder",
    f"List the entries of a folder of the sandbox, at most {MAX_FOUND}.",
    {
        "path": _FOLDER,
        "recursive": {"type": "boolean", "default": False, "description": "All levels below it."},
        "hidden": {**_HIDDEN, "default": True},
    },
    (),
    list_folder,
    READS,
)
GLOB = Tool(
    "glob",
    "Find files",
    "Find files and folders of the sandbox by a pattern of their names, as `**/*.py`; * and ? stay within a "
    "name, ** is any number of folders. Paths are relative to `path`.",
    {"pattern": {**TEXT, "minLength": 1}, "path": _FOLDER, "hidden": _HIDDEN},
    ("pattern",),
    find,
    READS,
)
GREP = Tool(
    "grep",
    "Search in files",
    "Search files of the sandbox for lines that match a regular expression (ripgrep's), as path:line:text. "
    "Files that .gitignore names are left out.",
    {
        "pattern": {**TEXT, "minLength": 1},
        "path": {**_FOLDER, "description": "A folder or file; relative paths start at the shell's folder."},
        "glob": {**TEXT, "minLength": 1, "description": "Only files whose names fit this, as *.py."},
        "ignore_case": {"type": "boolean", "default": False},
        "context": {
            "type": "integer",
            "minimum": 0,
            "maximum": 20,
            "default": 0,
            "description": "Lines to show around each match.",
        },
        "hidden": _HIDDEN,
    },
    ("pattern",),
    search,
    READS,
)

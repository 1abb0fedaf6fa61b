"""What the server says of itself: its API's document, and what works in this sandbox."""

from __future__ import annotations

from functools import cache

from graftbox import __version__
from graftbox.errors import UnsupportedError
from graftbox.server import capabilities, routes
from graftbox.server.aside import aside
from graftbox.server.openapi import Operation, document
from graftbox.server.request import Request, Response, answer
from graftbox.server.schema import Schema

_FEATURE: Schema = {
    "title": "Feature",
    "type": "object",
    "required": ["works", "reason"],
    "properties": {
        "works": {"type": "boolean"},
        "reason": {"type": ["string", "null"], "description": "Why it does not work, and what would help."},
        "path": {"type": ["string", "null"]},
        "bundled": {"type": "boolean", "description": "Of the bundle, not of the image."},
        "sandboxed": {
            "type": ["boolean", "null"],
            "description": "Whether the browser's processes are in Chromium's sandbox; null: not yet known.",
        },
        "sandbox_reason": {"type": ["string", "null"], "description": "Why they are not."},
    },
}
_FOLDER: Schema = {
    "title": "Folder",
    "type": "object",
    "required": ["path", "exists", "writable", "free_bytes", "free_files"],
    "properties": {
        "path": {"type": "string"},
        "exists": {"type": "boolean"},
        "writable": {"type": "boolean"},
        "free_bytes": {"type": ["integer", "null"]},
        "free_files": {"type": ["integer", "null"]},
    },
}
_COUNT: Schema = {"type": ["integer", "null"]}
CAPABILITIES: Schema = {
    "title": "Capabilities",
    "type": "object",
    "required": ["version", "features", "folders", "memory", "processes", "problems"],
    "properties": {
        "version": {"type": "string"},
        "bundled": {"type": "boolean", "description": "The server runs from /openhands."},
        "python": {"type": "string"},
        "architecture": {"type": "string"},
        "kernel": {"type": "string"},
        "components": {"type": "array", "items": {"type": "string"}},
        "user": {
            "type": "object",
            "properties": {
                "uid": {"type": "integer"},
                "gid": {"type": "integer"},
                "name": {"type": ["string", "null"]},
                "home": {"type": ["string", "null"]},
            },
        },
        "features": {"type": "object", "additionalProperties": _FEATURE},
        "plugins": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {"state": {"type": "string"}, "reason": {"type": ["string", "null"]}},
            },
            "description": "Those that were chosen, and others that were started.",
        },
        "folders": {"type": "object", "additionalProperties": _FOLDER},
        "memory": {
            "type": "object",
            "properties": {"limit_bytes": _COUNT, "used_bytes": _COUNT, "available_bytes": _COUNT},
        },
        "processes": {"type": "object", "properties": {"limit": _COUNT, "used": _COUNT}},
        "cpus": {"type": "number"},
        "open_files": {"type": "object", "properties": {"limit": _COUNT, "used": _COUNT}},
        "network": {
            "type": "object",
            "properties": {
                "interfaces": {"type": "array", "items": {"type": "string"}},
                "default_route": {"type": "boolean"},
            },
        },
        "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
        "problems": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What keeps the sandbox from working as it should; empty when all is well.",
        },
    },
}
OPENAPI = {
    "openapi": Operation("This document", answers={200: {"type": "object"}}),
    "show_capabilities": Operation(
        "What works in this sandbox, what does not and why", answers={200: CAPABILITIES}
    ),
}


async def openapi(request: Request) -> Response:
    return await aside(None, _document)


@cache
def _document() -> Response:
    """Made once, on a thread: it imports every endpoint."""
    return answer(document(routes.ROUTES, routes.OPEN, __version__))


async def show_capabilities(request: Request) -> Response:
    sandbox = request.sandbox
    await sandbox.plugins.get("vscode")  # made here, not by two threads at once
    try:
        folders = await sandbox.identity.call(capabilities.look_at_folders, sandbox)
    except (RuntimeError, UnsupportedError):
        # No thread can be started, or none as that user.
        folders = capabilities.look_at_folders(sandbox)
    return answer(await aside(None, capabilities.capabilities, sandbox, folders))

"""The shapes of ``/v1/kernels``."""

from __future__ import annotations

from graftbox.server.openapi import EVENTS, Operation
from graftbox.server.schema import TEXT, Schema
from graftbox.server.shapes.commands import ENV, WHOLE

NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}
NEW: Schema = {
    "title": "NewKernel",
    "type": "object",
    "properties": {
        "name": {**NAME, "description": "A random one by default; `main` is that of the agent's actions."},
        "python": {
            **TEXT,
            "minLength": 1,
            "description": "An interpreter of the image, CPython 3.6 or later, by path or name; the bundle's "
            "own by default. Nothing is installed into it.",
        },
        "cwd": {**TEXT, "minLength": 1, "description": "Where it starts; the working folder by default."},
        "env": ENV,
        "user": {
            **TEXT,
            "minLength": 1,
            "maxLength": 64,
            "description": "Name or number of whom it runs as.",
        },
    },
    "additionalProperties": False,
}
CELL: Schema = {
    "title": "Cell",
    "type": "object",
    "required": ["code"],
    "properties": {
        "code": {"type": "string"},
        "timeout": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": WHOLE,
            "default": None,
            "description": "Seconds after which it is interrupted; if that does not help, the kernel ends.",
        },
        "cwd": {**TEXT, "minLength": 1, "description": "Where the kernel goes before it runs the cell."},
        "cancel_on_disconnect": {
            "type": "boolean",
            "default": True,
            "description": "Interrupt the cell when the client goes away.",
        },
    },
    "additionalProperties": False,
}
KERNEL: Schema = {
    "title": "Kernel",
    "type": "object",
    "required": ["name", "state", "python", "cwd", "pid", "created", "cells", "starts"],
    "properties": {
        "name": {"type": "string"},
        "state": {"enum": ["new", "starting", "idle", "busy", "dead"]},
        "python": {
            "type": ["string", "null"],
            "description": "Null: the bundle's, before its start.",
        },
        "cwd": {"type": "string", "description": "Where it was after its last cell."},
        "pid": {"type": ["integer", "null"]},
        "created": {"type": "number", "description": "Seconds since 1970."},
        "cells": {"type": "integer", "description": "How many it has run."},
        "starts": {"type": "integer", "description": "How often its process was started."},
    },
}
KERNELS: Schema = {
    "title": "Kernels",
    "type": "object",
    "required": ["kernels"],
    "properties": {"kernels": {"type": "array", "items": KERNEL}},
}
OUTPUT: Schema = {
    "title": "CellOutput",
    "description": "As in notebooks (nbformat 4): a stream, an execute_result, a display_data or an error.",
    "type": "object",
    "required": ["output_type"],
    "properties": {
        "output_type": {"enum": ["stream", "execute_result", "display_data", "error"]},
        "name": {"type": "string"},
        "text": {"type": "string"},
        "data": {"type": "object", "description": "The value by media type; pictures as base64."},
        "ename": {"type": "string"},
        "evalue": {"type": "string"},
        "traceback": {"type": "string"},
    },
}
RESULT: Schema = {
    "title": "CellResult",
    "type": "object",
    "required": ["status", "outputs", "dropped", "timed_out", "reason", "cwd", "seconds"],
    "properties": {
        "status": {"enum": ["ok", "error", "aborted", "died"]},
        "outputs": {"type": "array", "items": OUTPUT},
        "dropped": {"type": "integer", "description": "Characters left out of the middle of the output."},
        "timed_out": {"type": "boolean"},
        "reason": {"type": ["string", "null"], "description": "How the kernel died."},
        "cwd": {"type": "string"},
        "seconds": {"type": "number"},
    },
}
_INTERRUPTED: Schema = {
    "title": "Interrupted",
    "type": "object",
    "required": ["interrupted"],
    "properties": {"interrupted": {"type": "boolean", "description": "Whether a cell was running."}},
}
_PATH = {"name": NAME}
_KEPT = (
    "Cells run one after the other; what a cell prints or shows is here completely, or with its middle left "
    "out where it is more than a megabyte."
)
OPENAPI = {
    "list_all": Operation("The kernels", answers={200: KERNELS}),
    "create": Operation(
        "Start a kernel", body=NEW, answers={201: KERNEL}, errors=(400, 404, 409, 429, 501, 503, 507)
    ),
    "show": Operation("A kernel", path=_PATH, answers={200: KERNEL}, errors=(404,)),
    "delete": Operation("End a kernel", path=_PATH, answers={204: None}, errors=(404,)),
    "execute": Operation(
        "Run a cell and wait for its end",
        _KEPT,
        path=_PATH,
        body=CELL,
        answers={200: RESULT},
        errors=(404, 501, 503, 507),
    ),
    "stream": Operation(
        "Run a cell and follow its output",
        "Events: `output` (CellOutput), `clear`, `missed` (characters, where the client reads too slowly), "
        "and `done` (CellResult without outputs).",
        path=_PATH,
        body=CELL,
        answers={200: EVENTS},
        errors=(404, 501, 503, 507),
    ),
    "interrupt": Operation("Interrupt the cell", path=_PATH, answers={200: _INTERRUPTED}, errors=(404,)),
    "restart": Operation(
        "Start the kernel anew",
        "Its variables, its cell and all that it has started are gone.",
        path=_PATH,
        answers={200: KERNEL},
        errors=(404, 501, 503, 507),
    ),
}

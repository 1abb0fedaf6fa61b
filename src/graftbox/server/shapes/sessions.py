"""The shapes of ``/v1/sessions``."""

from __future__ import annotations

from typing import Any

from graftbox.server import events
from graftbox.server.openapi import EVENTS, Media, Operation
from graftbox.server.schema import TEXT, Schema
from graftbox.server.shapes.commands import KEYED, SIGNAL, TIMEOUT, WAIT

NAME: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
    "description": "1 to 64 letters, digits, '.', '_' and '-'.",
}
ENV: Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": TEXT,
    "default": {},
    "description": "Variables beside the others.",
}
SIDE: Schema = {"type": "integer", "minimum": 1, "maximum": 1000}
CWD: Schema = {**TEXT, "minLength": 1}
MAX_OUTPUT = 4 * 1024 * 1024
OPEN: Schema = {
    "title": "OpenSession",
    "type": "object",
    "properties": {
        "name": {**NAME, "description": "One is made up by default."},
        "cwd": {**CWD, "description": "Where it starts; the working folder by default."},
        "env": ENV,
        "user": {
            **TEXT,
            "minLength": 1,
            "maxLength": 64,
            "description": "Name or number of whom it runs as.",
        },
        "shell": {**TEXT, "minLength": 1, "description": "Path of another bash."},
        "columns": {**SIDE, "default": 200},
        "rows": {**SIDE, "default": 50},
    },
    "additionalProperties": False,
}
SESSION: Schema = {
    "title": "Session",
    "type": "object",
    "required": ["name", "state", "created", "cwd", "columns", "rows", "output"],
    "properties": {
        "name": NAME,
        "state": {
            "enum": ["idle", "running", "dead"],
            "description": "dead: its shell has ended; the next command gets a new one.",
        },
        "created": {"type": "number", "description": "Seconds since 1970."},
        "cwd": {"type": "string"},
        "columns": {"type": "integer"},
        "rows": {"type": "integer"},
        "command": {"type": ["string", "null"], "description": "Id of the command that runs."},
        "output": {
            "type": "object",
            "properties": {"start": {"type": "integer"}, "end": {"type": "integer"}},
            "description": "Offsets of the oldest byte that is kept and of the next one.",
        },
    },
}
RUN: Schema = {
    "title": "RunInSession",
    "type": "object",
    "required": ["command"],
    "properties": {
        "command": {**TEXT, "maxLength": 1024 * 1024},
        "cwd": {**CWD, "description": "For this command alone, which then runs in a subshell."},
        "env": {**ENV, "description": "For this command alone, which then runs in a subshell."},
        "timeout": {**TIMEOUT, "description": "Seconds after which C-c is pressed, then SIGTERM, SIGKILL."},
        "wait": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 2**31 - 1,
            "default": None,
            "description": "Seconds to wait for its end; 0: don't. By default for as long as it takes.",
        },
        "max_output": {"type": "integer", "minimum": 0, "maximum": MAX_OUTPUT, "default": 256 * 1024},
        "cancel_on_disconnect": {
            "type": "boolean",
            "default": True,
            "description": "Interrupt the command when the client goes away while it waits.",
        },
    },
    "additionalProperties": False,
}
CALL: Schema = {
    "title": "SessionCommand",
    "type": "object",
    "required": ["id", "session", "state", "exit_code", "timed_out", "started", "start", "end", "cwd"],
    "properties": {
        "id": {"type": "string"},
        "session": NAME,
        "command": {"type": "string"},
        "state": {
            "enum": ["running", "exited", "died"],
            "description": "died: the shell ended with it, see `reason`.",
        },
        "exit_code": {"type": ["integer", "null"]},
        "reason": {"type": "string"},
        "timed_out": {"type": "boolean"},
        "started": {"type": "number", "description": "Seconds since 1970."},
        "start": {"type": "integer", "description": "Offset of its first byte in the session's output."},
        "end": {"type": ["integer", "null"], "description": "Offset after its last byte."},
        "cwd": {"type": "string", "description": "Where the session's shell is."},
        "output": {
            "type": "string",
            "description": "What it has printed: UTF-8, line ends as LF, other bytes replaced by U+FFFD.",
        },
        "truncated": {"type": "boolean", "description": "There was more: these are the last bytes."},
    },
}
SIZE: Schema = {
    "title": "Size",
    "type": "object",
    "required": ["columns", "rows"],
    "properties": {"columns": SIDE, "rows": SIDE},
    "additionalProperties": False,
}
INPUT: Schema = {
    "title": "Input",
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 1024 * 1024, "description": "Typed as it is."},
        "base64": {
            "type": "string",
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
            "description": "The same, as bytes.",
        },
        "keys": {
            "type": "array",
            "maxItems": 100,
            "items": {"type": "string", "pattern": "^[A-Za-z0-9-]{1,20}$"},
            "description": "Keys by tmux's names: C-c, Enter, Up, F1, …",
        },
        "enter": {"type": "boolean", "default": False, "description": "Press Enter afterwards."},
    },
    "additionalProperties": False,
    "oneOf": [{"required": ["text"]}, {"required": ["base64"]}, {"required": ["keys"]}],
}
SCROLLBACK: dict[str, Schema] = {
    "scrollback": {
        "type": "integer",
        "minimum": 0,
        "maximum": 1024 * 1024,
        "default": 0,
        "description": "Bytes of earlier output to begin with.",
    },
    "command": {
        "type": "string",
        "description": "Run in the session first if it is idle: its own shell reads commands from the API.",
        "default": "",
    },
}
READ: dict[str, Schema] = {
    **events.QUERY,
    "format": {"type": "string", "enum": ["json", "raw"], "default": "json"},
}
WATCH: dict[str, Schema] = {"offset": {**events.OFFSET, "default": 0}}
_PATH = {"name": {**NAME, "description": ""}}
_STREAM = {200: EVENTS}
LAST_EVENT: dict[str, Schema] = {
    "Last-Event-ID": {
        "type": "string",
        "pattern": "^[0-9]{1,16}$",
        "description": "The id of the last event that arrived.",
    }
}


def _operation(summary: str, description: str = "", **more: Any) -> Operation:
    return Operation(summary, description, path=_PATH, **more)


OPENAPI = {
    "open_session": Operation(
        "Open a session", body=OPEN, headers=KEYED, answers={201: SESSION}, errors=(400, 409, 429, 501, 503)
    ),
    "list_all": Operation(
        "The open sessions",
        answers={200: {"type": "object", "properties": {"sessions": {"type": "array", "items": SESSION}}}},
    ),
    "show": _operation("A session", answers={200: SESSION}, errors=(404,)),
    "close": _operation("End a session and everything in it", answers={204: None}, errors=(404,)),
    "reset": _operation(
        "Kill all that runs in a session and start a fresh shell",
        headers=KEYED,
        answers={200: SESSION},
        errors=(404, 501, 503),
    ),
    "resize": _operation("Change the terminal's size", body=SIZE, answers={200: SESSION}, errors=(404,)),
    "send_signal": _operation(
        "Signal the terminal's foreground process group",
        body=SIGNAL,
        answers={
            200: {"type": "object", "properties": {"pids": {"type": "array", "items": {"type": "integer"}}}}
        },
        errors=(404, 409, 501),
    ),
    "give_input": _operation(
        "Type on the terminal's keyboard", body=INPUT, headers=KEYED, answers={204: None}, errors=(404, 409)
    ),
    "run": _operation(
        "Run a command",
        "200 once it has ended; 202 when `wait` was over before: ask for the command, or read on, by its id.",
        body=RUN,
        headers=KEYED,
        answers={200: CALL, 202: CALL},
        errors=(400, 404, 409, 501, 503),
    ),
    "show_command": _operation("A command of a session", query=WAIT, answers={200: CALL}, errors=(404,)),
    "watch_command": _operation(
        "Output and end of a command as server-sent events",
        "Events `output` carry a Piece, and as id where to go on; `exit` the SessionCommand.",
        query=WATCH,
        headers=LAST_EVENT,
        answers=_STREAM,
        errors=(404,),
    ),
    "read": _operation(
        "What the terminal has shown",
        "Bytes as a terminal gets them, with CR LF. With format=raw from the offset asked for on, or 410.",
        query=READ,
        answers={200: (events.PIECE, Media("application/octet-stream"))},
        errors=(404, 410),
    ),
    "watch": _operation(
        "What the terminal shows, as server-sent events",
        "Events `output` carry a Piece, and as id where to go on.",
        query=WATCH,
        headers=LAST_EVENT,
        answers=_STREAM,
        errors=(404,),
    ),
}

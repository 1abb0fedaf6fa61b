"""The shapes of ``/v1/commands`` and ``/v1/run``."""

from __future__ import annotations

import signal

from graftbox.server import events
from graftbox.server.openapi import EVENTS, Media, Operation
from graftbox.server.schema import TEXT, Schema

MAX_SHOWN = 16 * 1024 * 1024
WHOLE = 2**31 - 1

ENV: Schema = {
    "type": "object",
    "description": "Variables beside the container's own; null removes one.",
    "propertyNames": {"pattern": r"^[^=\x00]+$"},
    "additionalProperties": {**TEXT, "type": ["string", "null"]},
    "default": {},
}
TIMEOUT: Schema = {
    "type": ["number", "null"],
    "exclusiveMinimum": 0,
    "maximum": WHOLE,
    "default": None,
    "description": "Seconds after which it is ended: SIGTERM, two seconds later SIGKILL. None by default.",
}
ORDER: dict[str, Schema] = {
    "command": {**TEXT, "maxLength": 1024 * 1024, "description": "A line for the sandbox's shell (bash -c)."},
    "argv": {
        "type": "array",
        "items": TEXT,
        "minItems": 1,
        "maxItems": 10_000,
        "description": "A program and its arguments, run without a shell.",
    },
    "cwd": {**TEXT, "minLength": 1, "description": "Where it runs; the working folder by default."},
    "env": ENV,
    "user": {**TEXT, "minLength": 1, "maxLength": 64, "description": "Name or number of whom it runs as."},
    "stdin": {"type": "string", "description": "What it reads; nothing by default."},
    "stdin_base64": {
        "type": "string",
        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        "description": "The same, as bytes.",
    },
    "timeout": TIMEOUT,
}
_WHICH = [{"required": ["command"]}, {"required": ["argv"]}]
START: Schema = {
    "title": "Start",
    "type": "object",
    "properties": ORDER,
    "additionalProperties": False,
    "oneOf": _WHICH,
    "not": {"required": ["stdin", "stdin_base64"]},
}
RUN: Schema = {
    **START,
    "title": "Run",
    "properties": {
        **ORDER,
        "max_output": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_SHOWN,
            "default": 1024 * 1024,
            "description": "Bytes of each stream in the answer; of more the last ones.",
        },
        "cancel_on_disconnect": {
            "type": "boolean",
            "default": True,
            "description": "End the command when the client goes away (never with an Idempotency-Key).",
        },
    },
}
_NULLABLE: Schema = {"type": ["integer", "null"]}
STREAM: Schema = {
    "title": "Stream",
    "type": "object",
    "required": ["start", "end", "closed"],
    "properties": {
        "start": {"type": "integer", "description": "The oldest offset that is still kept."},
        "end": {"type": "integer", "description": "Bytes so far."},
        "closed": {"type": "boolean", "description": "Nothing will follow."},
        "fault": {"type": "string", "description": "Why output was dropped early."},
    },
}
COMMAND: Schema = {
    "title": "Command",
    "type": "object",
    "required": ["id", "state", "pid", "created", "ended", "exit_code", "signal", "timed_out"],
    "properties": {
        "id": {"type": "string"},
        "command": {"type": "string"},
        "argv": {"type": "array", "items": {"type": "string"}},
        "cwd": {"type": "string"},
        "state": {"enum": ["running", "exited"]},
        "pid": {"type": "integer", "description": "Also the number of its process group."},
        "created": {"type": "number", "description": "Seconds since 1970."},
        "ended": {"type": ["number", "null"]},
        "exit_code": {**_NULLABLE, "description": "128 + n where signal n ended it."},
        "signal": {**_NULLABLE, "description": "The signal that ended it."},
        "timed_out": {"type": "boolean"},
        "stdout": STREAM,
        "stderr": STREAM,
    },
}
RESULT: Schema = {
    "title": "Result",
    "type": "object",
    "required": ["exit_code", "signal", "timed_out", "stdout", "stderr", "truncated", "seconds"],
    "properties": {
        "exit_code": {"type": "integer"},
        "signal": _NULLABLE,
        "timed_out": {"type": "boolean"},
        "stdout": {"type": "string", "description": "UTF-8; other bytes are replaced by U+FFFD."},
        "stderr": {"type": "string"},
        "stdout_base64": {"type": "string", "description": "The exact bytes, where some were replaced."},
        "stderr_base64": {"type": "string"},
        "truncated": {"type": "boolean", "description": "There was more output: ask for command `id`."},
        "seconds": {"type": "number"},
        "id": {"type": "string", "description": "The command, where there is more to know of it."},
    },
}
SIGNAL: Schema = {
    "title": "Signal",
    "type": "object",
    "required": ["signal"],
    "properties": {
        "signal": {
            "oneOf": [
                {"title": "a number", "type": "integer", "minimum": 1, "maximum": 64},
                {
                    "title": "a name such as SIGTERM",
                    "type": "string",
                    "enum": sorted(signal.Signals.__members__),
                },
            ]
        }
    },
    "additionalProperties": False,
}
WAIT: dict[str, Schema] = {
    "wait": {**events.QUERY["wait"], "description": "Seconds to wait for its end."},
}
READ: dict[str, Schema] = {
    **events.QUERY,
    "format": {"type": "string", "enum": ["json", "raw"], "default": "json"},
    "follow": {
        "type": "boolean",
        "default": False,
        "description": "With format=raw: everything from offset on, to the end of the stream.",
    },
}
WATCH: dict[str, Schema] = {
    "stdout": {**events.OFFSET, "default": 0, "description": "Where to begin in stdout."},
    "stderr": {**events.OFFSET, "default": 0, "description": "Where to begin in stderr."},
}
LAST_EVENT: dict[str, Schema] = {
    "Last-Event-ID": {
        "type": "string",
        "pattern": "^[0-9]{1,16}-[0-9]{1,16}$",
        "description": "The id of the last event that arrived.",
    }
}
KEYED: dict[str, Schema] = {
    "Idempotency-Key": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "description": "The same request with the same key is carried out once and answered alike.",
    }
}
OPENAPI = {
    "run": Operation(
        "Run a command and wait for its end",
        body=RUN,
        headers=KEYED,
        answers={200: RESULT},
        errors=(400, 429, 501, 503),
    ),
    "start": Operation(
        "Start a background command",
        body=START,
        headers=KEYED,
        answers={201: COMMAND},
        errors=(400, 429, 501, 503),
    ),
    "list_all": Operation(
        "All background commands",
        answers={200: {"type": "object", "properties": {"commands": {"type": "array", "items": COMMAND}}}},
    ),
    "show": Operation("A background command", query=WAIT, answers={200: COMMAND}, errors=(404,)),
    "delete": Operation("End a background command and forget it", answers={204: None}, errors=(404,)),
    "send_signal": Operation(
        "Send a signal to a command's process group",
        body=SIGNAL,
        headers=KEYED,
        answers={200: COMMAND},
        errors=(404, 409),
    ),
    "read": Operation(
        "Output of a command",
        "With format=raw the bytes themselves, from the offset asked for: 410 if that is no longer kept.",
        path={"stream": {"type": "string", "enum": ["stdout", "stderr"]}},
        query=READ,
        answers={200: (events.PIECE, Media("application/octet-stream"))},
        errors=(404, 410),
    ),
    "watch": Operation(
        "Output and end of a command as server-sent events",
        "Events `stdout` and `stderr` carry a Piece, and as id where to go on in both; `exit` the Command.",
        query=WATCH,
        headers=LAST_EVENT,
        answers={200: EVENTS},
        errors=(404,),
    ),
}

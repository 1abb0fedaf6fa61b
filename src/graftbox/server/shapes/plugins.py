"""The shapes of ``/v1/plugins``."""

from __future__ import annotations

from graftbox.server import events
from graftbox.server.openapi import Media, Operation
from graftbox.server.schema import Schema

_TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_MAYBE_NUMBER: Schema = {"type": ["integer", "null"]}
STATES = ("off", "starting", "running", "waiting", "failed", "done", "stopped")
PLUGIN: Schema = {
    "title": "Plugin",
    "type": "object",
    "required": ["name", "state", "reason", "chosen", "starts", "path", "link"],
    "properties": {
        "name": {"type": "string"},
        "summary": {"type": "string"},
        "source": {
            "type": "string",
            "description": "Where it comes from: built in, a folder, an entry point.",
        },
        "state": {
            "enum": list(STATES),
            "description": "off: not asked for; waiting: it died, and is started again soon; done: it ended "
            "by itself, as a program that serves nothing may.",
        },
        "reason": {**_MAYBE_TEXT, "description": "Why it is not running, or what happened last."},
        "since": {"type": "number", "description": "When it came into this state, seconds since 1970."},
        "chosen": {"type": "boolean", "description": "The server was told to start it."},
        "on_demand": {"type": "boolean", "description": "The first request to it starts it."},
        "pid": _MAYBE_NUMBER,
        "user": {"type": "integer"},
        "starts": {"type": "integer"},
        "seconds": {"type": ["number", "null"], "description": "That its last start took."},
        "needs": {
            "type": "object",
            "properties": {"plugins": _TEXTS, "programs": _TEXTS, "components": _TEXTS},
        },
        "path": {**_MAYBE_TEXT, "description": "Where it answers on this server."},
        "link": {**_MAYBE_TEXT, "description": "For a browser: with a token that lets it in to this plugin."},
        "port": {**_MAYBE_NUMBER, "description": "A port of its own where it answers too."},
    },
}
PLUGINS: Schema = {
    "title": "Plugins",
    "type": "object",
    "required": ["plugins"],
    "properties": {"plugins": {"type": "array", "items": PLUGIN}},
}
WAIT: dict[str, Schema] = {
    "wait": {
        "type": "number",
        "minimum": 0,
        "maximum": 600,
        "default": 30,
        "description": "Seconds to wait until it runs or has failed.",
    }
}
LOG: dict[str, Schema] = {
    **events.QUERY,
    "format": {"type": "string", "enum": ["json", "raw"], "default": "json"},
}
OPENAPI = {
    "list_all": Operation("The plugins", answers={200: PLUGINS}),
    "show": Operation("A plugin", answers={200: PLUGIN}, errors=(404,)),
    "start": Operation("Start a plugin", query=WAIT, answers={200: PLUGIN}, errors=(404,)),
    "stop": Operation("End a plugin and all that it has started", answers={200: PLUGIN}, errors=(404,)),
    "restart": Operation("End a plugin and start it", query=WAIT, answers={200: PLUGIN}, errors=(404,)),
    "read_log": Operation(
        "What a plugin has printed",
        "The newest 256 KiB, over all of its starts.",
        query=LOG,
        answers={200: (events.PIECE, Media("application/octet-stream"))},
        errors=(404,),
    ),
}

"""The shapes of the OpenHands action execution server's own endpoints."""

from __future__ import annotations

from graftbox.server.openapi import Operation

_ANSWER = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
_INFO = {
    "type": "object",
    "required": ["uptime", "idle_time", "resources"],
    "properties": {
        "uptime": {"type": "number", "description": "Seconds since the server started."},
        "idle_time": {"type": "number", "description": "Seconds since the last action."},
        "resources": {"type": "object"},
    },
}
_ACTION = {
    "title": "ActionRequest",
    "type": "object",
    "required": ["action"],
    "properties": {
        "action": {
            "type": "object",
            "required": ["action"],
            "properties": {
                "action": {
                    "enum": ["run", "run_ipython", "read", "write", "edit", "browse", "browse_interactive"]
                },
                "args": {"type": "object"},
                "timeout": {"type": ["number", "null"], "description": "Seconds."},
            },
        }
    },
}
_OBSERVATION = {
    "title": "Observation",
    "type": "object",
    "required": ["observation", "content"],
    "properties": {
        "observation": {"type": "string"},
        "content": {"type": "string"},
        "message": {"type": "string"},
        "extras": {"type": "object"},
    },
}
OPENAPI = {
    "alive": Operation("Whether the server answers", answers={200: _ANSWER}),
    "server_info": Operation("How long it has run and idled, and what it uses", answers={200: _INFO}),
    "execute_action": Operation(
        "Do what an agent asks for",
        "As OpenHands' server does: an unknown action, or one that lacks an argument, is a 500.",
        body=_ACTION,
        answers={200: _OBSERVATION},
        errors=(500,),
    ),
}

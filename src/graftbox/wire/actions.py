"""What a client asks the server to do, as typed data.

The wire form is ``{"action": TYPE, "args": {…}, "timeout": seconds?}``; ``parse`` turns it into one of the
classes below. Argument names, defaults and error texts are those of the OpenHands action execution server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any


class InvalidActionError(ValueError):
    """The request is not an action that this server can run; the text goes to the client."""


@dataclass(frozen=True, slots=True)
class Run:
    """A command, or input for the command that is running, in the persistent shell.

    ``timeout`` (seconds) bounds the wait for an answer, never the life of the command. ``blocking`` waits
    through silence; ``is_static`` uses a fresh shell in ``cwd``; ``hidden`` returns output untruncated.
    """

    command: str
    is_input: bool = False
    thought: str = ""
    blocking: bool = False
    is_static: bool = False
    cwd: str | None = None
    hidden: bool = False
    confirmation_state: str = "confirmed"
    security_risk: int = -1
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Lines ``start`` to ``end`` (0-based, ``end`` excluded, -1 for all) of a text file."""

    path: str
    start: int = 0
    end: int = -1
    thought: str = ""
    security_risk: int = -1
    impl_source: str = "default"
    view_range: tuple[int, ...] | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """New content for a file, or for its lines ``start`` to ``end``."""

    path: str
    content: str
    start: int = 0
    end: int = -1
    thought: str = ""
    security_risk: int = -1
    timeout: float | None = None


Action = Run | Read | Write

_IMPLEMENTED: Mapping[str, tuple[type[Action], str]] = {
    "run": (Run, "CmdRunAction"),
    "read": (Read, "FileReadAction"),
    "write": (Write, "FileWriteAction"),
}
# Types that the protocol knows but that never run here (yet): their error differs from an unknown type's.
_KNOWN = frozenset(
    (
        *("null", "run", "run_ipython", "browse", "browse_interactive", "read", "write", "edit", "think"),
        *("finish", "reject", "delegate", "recall", "change_agent_state", "message", "system"),
        *("condensation", "condensation_request", "call_tool_mcp", "task_tracking", "loop_recovery"),
    )
)
# Arguments of older clients that newer ones no longer have.
_DEPRECATED = ("keep_prompt", "task_completed", "translated_ipython_code", "timestamp")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "a string"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (_is_integer, "an integer"),
    "str | None": (lambda value: value is None or isinstance(value, str), "a string or null"),
    "tuple[int, ...] | None": (
        lambda value: value is None or (isinstance(value, list) and all(map(_is_integer, value))),
        "a list of integers or null",
    ),
}


def parse(message: object) -> Action:
    """The typed action in the decoded JSON ``message``; raises `InvalidActionError` with the model's text."""
    if not isinstance(message, dict):
        raise InvalidActionError(f"action is not a JSON object: {message!r}")
    if "action" not in message:
        if "observation" in message:
            raise InvalidActionError("400: Invalid action type")
        raise InvalidActionError(f"'action' key is not found in action={message!r}")
    kind = message["action"]
    if not isinstance(kind, str) or kind not in _KNOWN:
        raise InvalidActionError(
            f"'action['action']={kind!r}' is not defined. Available actions: {', '.join(sorted(_KNOWN))}"
        )
    if kind not in _IMPLEMENTED:
        raise InvalidActionError(f"'ActionExecutor' object has no attribute {kind!r}")
    cls, name = _IMPLEMENTED[kind]
    return _build(cls, name, message)


def _build(cls: type[Action], name: str, message: dict[str, Any]) -> Action:
    args = message.get("args", {})
    if not isinstance(args, dict):
        raise _wrong(message, f"{name}.__init__() args must be a JSON object")
    values = {key: value for key, value in args.items() if key not in _DEPRECATED}
    if "is_confirmed" in values:
        values.setdefault("confirmation_state", values.pop("is_confirmed"))
    known = {field.name: str(field.type) for field in fields(cls) if field.name != "timeout"}
    for key, value in values.items():
        if key not in known:
            raise _wrong(message, f"{name}.__init__() got an unexpected keyword argument {key!r}")
        if value is None and key == "thought":
            values = values | {key: ""}
            continue
        fits, wanted = _CHECKS[known[key]]
        if not fits(value):
            raise _wrong(message, f"{name}.__init__() argument {key!r} must be {wanted}")
    missing = [repr(key) for key in ("command", "path", "content") if key in known and key not in values]
    if missing:
        names = " and ".join(missing)
        plural = "s" if len(missing) > 1 else ""
        reason = f"missing {len(missing)} required positional argument{plural}: {names}"
        raise _wrong(message, f"{name}.__init__() {reason}")
    if isinstance(values.get("view_range"), list):
        values = values | {"view_range": tuple(values["view_range"])}
    return cls(**values, timeout=_timeout(message))


def _timeout(message: dict[str, Any]) -> float | None:
    value = message.get("timeout")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidActionError(f"timeout must be a number of seconds, not {value!r}")
    return float(value)


def _wrong(message: dict[str, Any], reason: str) -> InvalidActionError:
    return InvalidActionError(f"action={message!r} has the wrong arguments: {reason}")

"""What a client asks the server to do, as typed data.

The wire form is ``{"action": TYPE, "args": {…}, "timeout": seconds?}``; ``parse`` turns it into one of the
classes below. Argument names, defaults and error texts are those of the OpenHands action execution server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
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


@dataclass(frozen=True, slots=True)
class RunIPython:
    """A cell for the Jupyter kernel; ``kernel_init_code`` runs first in a kernel that has not seen it."""

    code: str
    thought: str = ""
    include_extra: bool = True
    confirmation_state: str = "confirmed"
    security_risk: int = -1
    kernel_init_code: str = ""
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """One command of the editor: view, create, str_replace, insert or undo_edit.

    ``insert_line`` may be a number in digits, as language models write it. ``content``, ``start`` and ``end``
    belong to edits that clients make with a language model (``impl_source`` "llm_based_edit"); they never run
    here.
    """

    path: str
    command: str = ""
    file_text: str | None = None
    old_str: str | None = None
    new_str: str | None = None
    insert_line: int | str | None = None
    view_range: tuple[int, ...] | None = None
    content: str = ""
    start: int = 1
    end: int = -1
    thought: str = ""
    security_risk: int = -1
    impl_source: str = "oh_aci"
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Browse:
    """Open ``url`` (or a file) in the browser and return the page as text."""

    url: str
    thought: str = ""
    security_risk: int = -1
    return_axtree: bool = False
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class BrowseInteractive:
    """Steps in BrowserGym's action language."""

    browser_actions: str
    thought: str = ""
    browsergym_send_msg_to_user: str = ""
    security_risk: int = -1
    return_axtree: bool = False
    timeout: float | None = None


Action = Run | RunIPython | Read | Write | Edit | Browse | BrowseInteractive

_IMPLEMENTED: Mapping[str, tuple[type[Action], str]] = {
    "run": (Run, "CmdRunAction"),
    "run_ipython": (RunIPython, "IPythonRunCellAction"),
    "read": (Read, "FileReadAction"),
    "write": (Write, "FileWriteAction"),
    "edit": (Edit, "FileEditAction"),
    "browse": (Browse, "BrowseURLAction"),
    "browse_interactive": (BrowseInteractive, "BrowseInteractiveAction"),
}
_REQUIRED = ("command", "code", "path", "content", "url", "browser_actions")
# Types that the protocol knows but that never run here: their error differs from an unknown type's.
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
    "int | str | None": (
        lambda value: value is None or isinstance(value, str) or _is_integer(value),
        "an integer or null",
    ),
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
    required = {field.name for field in fields(cls) if field.default is MISSING}
    missing = [repr(key) for key in _REQUIRED if key in required and key not in values]
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

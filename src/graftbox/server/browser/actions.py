"""BrowserGym's action language: calls such as ``click("12")``, found in any text around them.

Parsed, never evaluated: a call is a name with literals in parentheses. What is taken for a call, and what is
skipped, follows browsergym-core's grammar with ``strict=False``: comments are ignored, several calls may
share a line, and text that is no call is passed over. https://github.com/ServiceNow/BrowserGym
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

NAMES = (
    "noop",
    "send_msg_to_user",
    "report_infeasible",
    "scroll",
    "fill",
    "select_option",
    "click",
    "dblclick",
    "hover",
    "press",
    "focus",
    "clear",
    "drag_and_drop",
    "upload_file",
    "go_back",
    "go_forward",
    "goto",
    "tab_close",
    "tab_focus",
    "new_tab",
)
"""The actions of the subsets chat, infeas, bid, nav and tab."""

_LETTERS = "A-Za-z_\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff"
_NAME = re.compile(f"[{_LETTERS}][{_LETTERS}0-9\u00b7]*")
_SPACE = re.compile(r"(?:[ \n\t\r]+|#.*)*")
_FLOAT = re.compile(r"[+-]?(?:\d+(?:[eE][+-]?\d+)|(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_INTEGER = re.compile(r"[+-]?\d+")
# In the order of preference among matches of one length; the longest wins.
_STRINGS = tuple(
    re.compile(pattern)
    for pattern in (
        r'"""(?:[^"\\]|""(?!")|"(?!"")|\\.)*"""',
        r"'''(?:[^'\\]|''(?!')|'(?!'')|\\.)*'''",
        r'"(?:[^"\n\r\\]|\\(?:[^x]|x[0-9a-fA-F]+))*"',
        r"'(?:[^'\n\r\\]|\\(?:[^x]|x[0-9a-fA-F]+))*'",
    )
)
_CONSTANT = re.compile(r"(True|False|None)(?![A-Za-z0-9_$])")
_CONSTANTS = {"True": True, "False": False, "None": None}
_DEEPEST = 50


class _Mismatch(Exception):  # noqa: N818 - no error: the text is something else here
    """What is at this place is not what was looked for."""


@dataclass(frozen=True)
class Call:
    """``name`` is one of `NAMES`; the values are strings, numbers, None, and lists, tuples, dicts of them."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def parse(text: str) -> list[Call]:
    """The calls in ``text``, in order.

    Raises `ValueError` when there is none, `NameError` for an unknown name and `SyntaxError` for a literal
    that Python would not read either, with BrowserGym's texts.
    """
    text = text.expandtabs()
    calls = []
    at = 0
    while (at := _skip(text, at)) < len(text):
        name = _NAME.match(text, at)
        if name is None:
            at += 1
            continue
        # A name that begins no call does not do so without its first letters either.
        at = name.end()
        try:
            args, kwargs, at = _arguments(text, at)
        except _Mismatch:
            continue
        calls.append((name.group(), args, kwargs))
    if not calls:
        raise ValueError("Received an empty action.")
    for called, _, _ in calls:
        if called not in NAMES:
            raise NameError(f"Invalid action type '{called}'.")
    return [Call(called, tuple(args), _once(kwargs)) for called, args, kwargs in calls]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise SyntaxError(f"keyword argument repeated: {name}")
        found[name] = value
    return found


def _skip(text: str, at: int) -> int:
    """Behind the white space and comments at ``at``."""
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _expect(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        raise _Mismatch
    return at + 1


def _arguments(text: str, at: int) -> tuple[list[Any], list[tuple[str, Any]], int]:
    at = _expect(text, at, "(")
    args, at = _elements(text, at, 0)
    kwargs: list[tuple[str, Any]] = []
    while True:
        start = _skip(text, at)
        name = _NAME.match(text, start)
        if name is None:
            break
        value, at = _element(text, _expect(text, name.end(), "="), 0)
        kwargs.append((name.group(), value))
        try:
            at = _expect(text, at, ",")
        except _Mismatch:
            break
    return args, kwargs, _expect(text, at, ")")


def _elements(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    """Literals with commas between them; one may also be behind the last."""
    found: list[Any] = []
    while True:
        try:
            value, at = _element(text, at, depth)
        except _Mismatch:
            return found, at
        found.append(value)
        try:
            at = _expect(text, at, ",")
        except _Mismatch:
            return found, at


def _element(text: str, at: int, depth: int) -> tuple[Any, int]:
    at = _skip(text, at)
    if depth > _DEEPEST:
        raise RecursionError("maximum recursion depth exceeded")
    first = text[at : at + 1]
    if first in ('"', "'"):
        return _string(text, at)
    if (found := _FLOAT.match(text, at)) is not None:
        return float(found.group()), found.end()
    if (found := _INTEGER.match(text, at)) is not None:
        return int(found.group()), found.end()
    if first == "{":
        return _dict(text, at + 1, depth + 1)
    if first == "[":
        items, at = _elements(text, at + 1, depth + 1)
        return items, _expect(text, at, "]")
    if first == "(":
        items, at = _elements(text, at + 1, depth + 1)
        return tuple(items), _expect(text, at, ")")
    if (found := _CONSTANT.match(text, at)) is not None:
        return _CONSTANTS[found.group(1)], found.end()
    raise _Mismatch


def _string(text: str, at: int) -> tuple[str, int]:
    found = [match for pattern in _STRINGS if (match := pattern.match(text, at)) is not None]
    if not found:
        raise _Mismatch
    longest = max(found, key=lambda match: match.end())
    with warnings.catch_warnings():
        # An escape that means nothing is itself.
        warnings.simplefilter("ignore")
        value = ast.literal_eval(longest.group())
    return value, longest.end()


def _dict(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while text[(at := _skip(text, at)) : at + 1] in ('"', "'"):
        key, at = _string(text, at)
        found[key], at = _element(text, _expect(text, at, ":"), depth)
        try:
            at = _expect(text, at, ",")
        except _Mismatch:
            break
    return found, _expect(text, at, "}")

"""An accessibility tree as text for a language model, one line for each node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_PASSED_ROLES = frozenset(("LineBreak",))
_PASSED_PROPERTIES = frozenset(
    ("editable", "readonly", "level", "settable", "multiline", "invalid", "focusable")
)
_FLAGS = frozenset(("required", "focused", "atomic"))


def flatten(tree: dict[str, Any], properties: dict[str, dict[str, Any]]) -> str:
    """The lines that browsergym-core's ``flatten_axtree_to_str`` gives with ``with_clickable=True`` and
    ``skip_generic=False``. Raises `KeyError` for a tree without nodes, as it does.
    """
    nodes = tree["nodes"]
    numbers = {node["nodeId"]: number for number, node in enumerate(nodes)}
    return "\n".join(_lines(nodes, numbers, properties))


def _lines(
    nodes: list[dict[str, Any]], numbers: dict[str, int], properties: dict[str, dict[str, Any]]
) -> Iterator[str]:
    # Depth first, without recursion: pages are as deep as they like.
    stack = [(0, 0, "")]
    while stack:
        number, depth, above = stack.pop()
        node = nodes[number]
        name, line = _line(node, properties, above)
        if line is not None:
            yield "\t" * depth + line
            depth += 1
        children = [
            (numbers[child], depth, name)
            for child in node.get("childIds", ())
            if child in numbers and child != node["nodeId"]
        ]
        stack.extend(reversed(children))


def _line(node: dict[str, Any], properties: dict[str, dict[str, Any]], above: str) -> tuple[str, str | None]:
    """The node's name, and its line; None where it has none."""
    role = node["role"]["value"]
    if role in _PASSED_ROLES or "name" not in node:
        return "", None
    name = node["name"]["value"]
    if role == "StaticText" and name in above:
        return name, None
    key = node.get("browsergym_id")
    text = role if role == "generic" and not name else f"{role} {name.strip()!r}"
    if key is not None:
        text = f"[{key}] {text}"
    value = node.get("value", {}).get("value")
    if value is not None:
        text += f" value={value!r}"
    attributes = list(_attributes(node))
    if key is not None and role != "StaticText" and properties.get(key, {}).get("clickable"):
        attributes.insert(0, "clickable")
    return name, ", ".join([text, *attributes])


def _attributes(node: dict[str, Any]) -> Iterator[str]:
    for each in node.get("properties", ()):
        name = each["name"]
        if name in _PASSED_PROPERTIES or "value" not in each.get("value", {}):
            continue
        value = each["value"]["value"]
        if name not in _FLAGS:
            yield f"{name}={value!r}"
        elif value:
            yield str(name)

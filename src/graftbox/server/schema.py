"""Checks values against the part of JSON Schema 2020-12 that the API's own document uses.

The schemas are the ones that ``/v1/openapi.json`` shows, so that what is documented is what is checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string", "pattern": r"^[^\x00]*$"}
"""A string that can be handed to the kernel: without NUL characters."""


class MismatchError(ValueError):
    """``text`` says what is wrong with which part of the value."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


_TYPES: Mapping[str, Any] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def check(value: Any, schema: Schema, where: str) -> Any:
    """``value`` with the defaults of missing properties filled in; raises `MismatchError`.

    ``where`` names the value in the message, as ``body`` or ``offset``.
    """
    types = schema.get("type")
    if types is not None:
        names = [types] if isinstance(types, str) else types
        if not any(_TYPES[name](value) for name in names):
            raise MismatchError(f"{where} must be of type {' or '.join(names)}.")
        if isinstance(value, float) and "number" not in names:
            value = int(value)
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(str(each) for each in schema["enum"])
        raise MismatchError(f"{where} must be one of {allowed}.")
    for fault in _faults(value, schema):
        raise MismatchError(f"{where} {fault}.")
    if isinstance(value, list) and "items" in schema:
        value = [check(each, schema["items"], f"{where}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, dict):
        value = _object(value, schema, where)
    if "not" in schema and _fits(value, schema["not"]):
        together = " and ".join(schema["not"].get("required", ()))
        raise MismatchError(f"{where} can't have {together} together.")
    if "oneOf" in schema:
        _one_of(value, schema["oneOf"], where)
    return value


def _faults(value: Any, schema: Schema) -> Iterator[str]:
    if isinstance(value, str):
        lone = not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)
        # File names may hold bytes that are no text; whoever says so takes them as Python does.
        if lone and not schema.get("x-bytes"):
            yield "contains half of a surrogate pair, which is no text"
        if len(value) < schema.get("minLength", 0):
            yield f"must have at least {schema['minLength']} characters"
        if len(value) > schema.get("maxLength", math.inf):
            yield f"must have at most {schema['maxLength']} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value, re.ASCII):
            yield f"must match {schema['pattern']}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", -math.inf) or value > schema.get("maximum", math.inf):
            low, high = schema.get("minimum", "-∞"), schema.get("maximum", "∞")
            yield f"must be from {low} to {high}"
        if value <= schema.get("exclusiveMinimum", -math.inf):
            yield f"must be more than {schema['exclusiveMinimum']}"
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            low, high = schema.get("minItems", 0), schema.get("maxItems", "any number of")
            yield f"must have from {low} to {high} items"
    elif isinstance(value, dict) and len(value) > schema.get("maxProperties", math.inf):
        yield f"must have at most {schema['maxProperties']} entries"


def _object(value: dict[str, Any], schema: Schema, where: str) -> dict[str, Any]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    names = schema.get("propertyNames")
    checked: dict[str, Any] = {}
    for name, each in value.items():
        if names is not None:
            check(name, names, f"The name {name!r} in {where}")
        if name in properties:
            checked[name] = check(each, properties[name], f"{where}.{name}")
        elif others is False:
            known = ", ".join(properties)
            raise MismatchError(f"{where}.{name} is not known here; known are: {known}.")
        else:
            checked[name] = check(each, others, f"{where}.{name}") if others is not True else each
    for name in schema.get("required", ()):
        if name not in value:
            raise MismatchError(f"{where}.{name} is required.")
    for name, each in properties.items():
        if name not in checked and "default" in each:
            checked[name] = each["default"]
    return checked


def _one_of(value: Any, schemas: list[Schema], where: str) -> None:
    if sum(_fits(value, each) for each in schemas) != 1:
        wanted = (
            " with ".join(each["required"]) if "required" in each else each["title"] for each in schemas
        )
        raise MismatchError(f"{where} needs exactly one of: {' or '.join(wanted)}.")


def _fits(value: Any, schema: Schema) -> bool:
    try:
        check(value, schema, "")
    except MismatchError:
        return False
    return True


def from_text(text: str, schema: Schema, where: str) -> Any:
    """The value that a query parameter's text stands for, checked; raises `MismatchError`."""
    types = schema.get("type", "string")
    value: Any = text
    if types == "integer" and re.fullmatch(r"-?[0-9]{1,20}", text):
        value = int(text)
    elif types == "number" and re.fullmatch(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?", text):
        value = float(text)
    elif types == "boolean":
        value = {"true": True, "1": True, "false": False, "0": False}.get(text, text)
    return check(value, schema, where)

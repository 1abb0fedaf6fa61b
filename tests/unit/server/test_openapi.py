"""The API's document, and that it says what the server does."""

from __future__ import annotations

import re
from typing import Any

import pytest

from graftbox.server import openapi, routes
from graftbox.server.schema import MismatchError, check, from_text


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document(routes.ROUTES, routes.OPEN, "1")


def test_every_endpoint_is_described() -> None:
    assert openapi.undescribed(routes.ROUTES) == []


def test_the_document_is_openapi_3_1_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    names = document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/(\w+)", repr(document)))
    assert references <= names.keys()
    identifiers = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(identifiers) == len(set(identifiers))
    for path, methods in document["paths"].items():
        for operation in methods.values():
            given = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
            assert given == set(re.findall(r"{(\w+)}", path))


def test_only_what_needs_no_key_says_so(document: dict[str, Any]) -> None:
    free = {
        path for path, methods in document["paths"].items() if methods.get("get", {}).get("security") == []
    }
    assert free == routes.OPEN


def test_the_server_hands_it_out(client: Any) -> None:
    status, document = client.ask("GET", "/v1/openapi.json")
    assert status == 200
    assert {"/alive", "/execute_action", "/v1/run", "/v1/sessions/{name}/run"} <= document["paths"].keys()


@pytest.mark.parametrize(
    ("value", "schema", "said"),
    [
        (1, {"type": "string"}, "of type string"),
        (True, {"type": "integer"}, "of type integer"),
        (1.5, {"type": "integer"}, "of type integer"),
        (float("inf"), {"type": "integer"}, "of type integer"),
        ("x", {"enum": ["a", "b"]}, "one of a, b"),
        ("\ud800", {"type": "string"}, "surrogate"),
        ("", {"type": "string", "minLength": 1}, "at least 1"),
        ("abc", {"type": "string", "maxLength": 2}, "at most 2"),
        ("abc", {"type": "string", "pattern": "^b"}, "match"),
        (0, {"type": "number", "exclusiveMinimum": 0}, "more than 0"),
        (5, {"type": "integer", "maximum": 4}, "from -∞ to 4"),
        ([], {"type": "array", "minItems": 1}, "from 1"),
        ([1, "x"], {"type": "array", "items": {"type": "integer"}}, "it[1]"),
        ({"a": 1}, {"type": "object", "properties": {"b": {}}, "additionalProperties": False}, "it.a is not"),
        ({}, {"type": "object", "required": ["a"]}, "it.a is required"),
        ({"a": 1}, {"additionalProperties": {"type": "string"}}, "it.a"),
        ({"a=": 1}, {"propertyNames": {"pattern": "^[a-z]+$"}}, "'a='"),
        ({}, {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "exactly one of: a or b"),
        ({"a": 1, "b": 1}, {"not": {"required": ["a", "b"]}}, "a and b together"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_reason(value: object, schema: Any, said: str) -> None:
    with pytest.raises(MismatchError, match=re.escape(said)):
        check(value, schema, "it")


def test_a_value_that_fits_gets_its_defaults() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"default": 7}}}
    assert check({"a": 2.0}, schema, "it") == {"a": 2, "b": 7}


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("12", "integer", 12),
        ("-1.5e3", "number", -1500.0),
        ("true", "boolean", True),
        ("0", "boolean", False),
    ],
)
def test_a_query_parameter_becomes_what_it_stands_for(text: str, kind: str, value: object) -> None:
    assert from_text(text, {"type": kind}, "it") == value
    with pytest.raises(MismatchError):
        from_text(text + "x", {"type": kind}, "it")

"""The OpenAPI 3.1 document of this server, put together from what each module of the API says of itself.

To add an endpoint:

1. A line in ``routes.ROUTES``: ``"/v1/things/{name}": {"GET": "things:show"}``.
2. In ``api/things.py`` the function, and next to it its entry in that module's ``OPENAPI``, under the
   function's name; or, where that gets long, all of it in ``shapes/things.py``::

       from graftbox.server.openapi import Operation

       THING = {"title": "Thing", "type": "object", "required": ["name"], "properties": {"name": TEXT}}
       LIMIT = {"limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}}
       OPENAPI = {
           "show": Operation("A thing", query=LIMIT, answers={200: THING}, errors=(404,)),
           "make": Operation("Make a thing", body=THING, answers={201: THING}, errors=(409, 507)),
       }

       async def show(request: Request) -> Response:
           query = request.arguments(LIMIT)      # checked, converted and with defaults; else 422
           ...

       async def make(request: Request) -> Response:
           given = await request.json(THING)     # checked and with the defaults of THING filled in; else 422
           return answer({"name": given["name"]}, 201)

Schemas are plain JSON Schema, of which `graftbox.server.schema` knows a part; ``additionalProperties: False``
in a body lets a mistyped name be refused. One with a ``title`` is named in the document. Under a ``body`` or
in ``answers`` a `Media` stands for what is not JSON, ``None`` for no body at all. A function that answers two
methods or paths is described once for all of them. A path's parameters are strings, refined by ``path``.
Every operation also answers 403 and, with a body, query or header, 422: these are added. A stream of
server-sent events is `EVENTS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from graftbox.server.schema import Schema

DESCRIPTION = (
    "A sandbox's server. Paths below /v1 are its own API; the others are those of the OpenHands action "
    "execution server. Every request but GET /alive and GET /server_info carries the session's key."
)
ERROR: Schema = {
    "title": "Error",
    "type": "object",
    "required": ["detail"],
    "properties": {"detail": {"type": "string", "description": "What happened, and what to do next."}},
}
ERRORS: Mapping[int, str] = {
    400: "The request makes no sense.",
    403: "The key is missing or wrong.",
    404: "There is no such thing.",
    410: "It is no longer kept.",
    409: "The state it is in does not allow it.",
    412: "It is not what the request's condition says.",
    413: "The body is larger than the limit.",
    416: "The range is beyond the end.",
    422: "A value is missing, unknown or out of range.",
    429: "A limit on how many there may be is reached.",
    500: "The server failed.",
    501: "This sandbox can't do that.",
    502: "What was asked for another server could not be had from it.",
    503: "This sandbox can't do that now: it is out of memory or processes, or the browser has ended.",
    504: "It was not done in time.",
    507: "The disk is full.",
}


@dataclass(frozen=True)
class Media:
    """A body that is not JSON."""

    content_type: str
    schema: Schema = field(default_factory=lambda: {"type": "string", "format": "binary"})


EVENTS = Media("text/event-stream", {"description": "Events, each with JSON as its data."})
"""Server-sent events; OpenAPI 3.1 has no way to describe one of them."""
Body = Schema | Media | None
Answer = Body | tuple[Schema | Media, ...]
"""A tuple: one of these, as the query asks."""


@dataclass(frozen=True)
class Operation:
    """What the document says of one endpoint; shapes as in the module's docstring.

    ``query``, ``headers`` and ``path`` map parameters to schemas, ``answers`` statuses to bodies. ``hidden``
    keeps it out of the document.
    """

    summary: str
    description: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    path: Mapping[str, Schema] = field(default_factory=dict)
    body: Body = None
    body_required: bool = True
    answers: Mapping[int, Answer] = field(default_factory=lambda: {200: {}})
    errors: tuple[int, ...] = ()
    hidden: bool = False


def document(
    routes: Mapping[str, Mapping[str, str]], open_paths: frozenset[str], version: str
) -> dict[str, Any]:
    """The whole document. Endpoints that say nothing of themselves are left out: `undescribed` lists them."""
    schemas: dict[str, Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    for path, method, reference in _endpoints(routes):
        operation = described(reference)
        if operation is None or operation.hidden:
            continue
        entry = _operation(operation, path, method, reference, schemas)
        if path in open_paths:
            entry["security"] = []
        paths.setdefault(path.replace("...}", "}"), {})[method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "graftbox sandbox", "version": version, "description": DESCRIPTION},
        "security": [{"key": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _named(ERROR, schemas, whole=True), **schemas},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Session-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def undescribed(routes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The endpoints, as ``GET /path``, that have no `Operation`."""
    return [
        f"{method} {path}" for path, method, reference in _endpoints(routes) if described(reference) is None
    ]


def described(reference: str) -> Operation | None:
    """What the module of ``module:function``, or the one of that name in `shapes`, says of that function."""
    module, _, name = reference.partition(":")
    place = import_module(f"graftbox.server.api.{module}")
    if not hasattr(place, "OPENAPI"):
        place = import_module(f"graftbox.server.shapes.{module}")
    found: Operation | None = place.OPENAPI.get(name)
    return found


def _endpoints(routes: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str, str]]:
    for path, methods in routes.items():
        for method, reference in methods.items():
            if method != "WEBSOCKET":
                yield path, method, reference


def _operation(
    operation: Operation, path: str, method: str, reference: str, schemas: dict[str, Schema]
) -> dict[str, Any]:
    module, _, name = reference.partition(":")
    entry: dict[str, Any] = {
        "operationId": f"{module}.{name}" if method != "HEAD" else f"{module}.{name}.head",
        "tags": [module],
        "summary": operation.summary,
    }
    if operation.description:
        entry["description"] = operation.description
    if parameters := list(_parameters(operation, path)):
        entry["parameters"] = parameters
    if operation.body is not None:
        entry["requestBody"] = {
            "required": operation.body_required,
            "content": _content(operation.body, schemas),
        }
    statuses = {403, *operation.errors}
    if operation.body is not None:
        statuses |= {413, 422}
    if operation.query or operation.headers:
        statuses.add(422)
    if "Idempotency-Key" in operation.headers:
        statuses.add(429)
    entry["responses"] = {
        **{str(status): _answer(body, schemas) for status, body in operation.answers.items()},
        **{str(status): _error(status) for status in sorted(statuses - operation.answers.keys())},
    }
    return entry


def _parameters(operation: Operation, path: str) -> Iterator[dict[str, Any]]:
    for part in path.split("/"):
        if part.startswith("{"):
            name = part.strip("{}").removesuffix("...")
            schema = operation.path.get(name, {"type": "string", "minLength": 1})
            yield {"name": name, "in": "path", "required": True, "schema": schema}
    for place, parameters in (("query", operation.query), ("header", operation.headers)):
        for name, schema in parameters.items():
            entry = {"name": name, "in": place, "required": False, "schema": schema}
            if schema.get("description"):
                entry["description"] = schema["description"]
            if place == "query" and schema.get("x-required"):
                entry["required"] = True
            yield entry


def _answer(body: Answer, schemas: dict[str, Schema]) -> dict[str, Any]:
    entry: dict[str, Any] = {"description": "Done."}
    if body is not None:
        entry["content"] = _content(body, schemas)
    return entry


def _error(status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": ERRORS[status], "content": content}


def _content(body: Schema | Media | tuple[Schema | Media, ...], schemas: dict[str, Schema]) -> dict[str, Any]:
    if isinstance(body, tuple):
        return {name: each for part in body for name, each in _content(part, schemas).items()}
    if isinstance(body, Media):
        return {body.content_type: {"schema": body.schema}}
    return {"application/json": {"schema": _named(body, schemas)}}


def _named(schema: Any, schemas: dict[str, Schema], *, whole: bool = False) -> Any:
    """``schema`` with each titled part in it moved to ``schemas`` and referred to."""
    if isinstance(schema, list | tuple):
        return [_named(each, schemas) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain = {key: _named(value, schemas) for key, value in schema.items() if key != "x-required"}
    title = schema.get("title")
    if whole or not isinstance(title, str) or not title.isidentifier() or "type" not in schema:
        return plain
    schemas[title] = plain
    return {"$ref": f"#/components/schemas/{title}"}

"""The ports of the sandbox over HTTP: ``/v1/ports``."""

from __future__ import annotations

from graftbox.errors import NotFoundError
from graftbox.server import ports
from graftbox.server.openapi import Operation
from graftbox.server.request import Request, Response, answer
from graftbox.server.schema import Schema
from graftbox.server.upstream import port_of

PORT: Schema = {
    "title": "Port",
    "type": "object",
    "required": ["port", "listening", "addresses", "user", "path", "link"],
    "properties": {
        "port": {"type": "integer"},
        "listening": {"type": "boolean"},
        "addresses": {"type": "array", "items": {"type": "string"}},
        "user": {"type": ["integer", "null"], "description": "Number of the user that has opened it."},
        "path": {"type": "string", "description": "Where it answers on this server, with the key."},
        "link": {
            "type": "string",
            "description": "For a browser: with a token for this port.",
        },
    },
}
OPENAPI = {
    "list_all": Operation(
        "The TCP ports on which something in the sandbox listens",
        "This server's own are left out.",
        answers={
            200: {
                "title": "Ports",
                "type": "object",
                "required": ["ports"],
                "properties": {"ports": {"type": "array", "items": PORT}},
            }
        },
    ),
    "show": Operation(
        "One port of the sandbox, and the link to it",
        "The link is there before anything listens, too.",
        path={"port": {"type": "integer", "minimum": 1, "maximum": 65535}},
        answers={200: PORT},
        errors=(404,),
    ),
}


async def list_all(request: Request) -> Response:
    request.arguments({})
    found = await ports.listening()
    return answer({"ports": [ports.describe(request.sandbox, port, found[port]) for port in found]})


async def show(request: Request) -> Response:
    request.arguments({})
    text = request.parameters["port"]
    port = port_of(text)
    if port is None:
        raise NotFoundError(f"{text} is no port; it is a number from 1 to 65535.")
    found = await ports.listening()
    return answer(ports.describe(request.sandbox, port, found.get(port, {})))

"""The endpoint of the VS Code server in the sandbox."""

from __future__ import annotations

from graftbox.server.openapi import Operation
from graftbox.server.request import Request, Response, answer

OPENAPI = {
    "connection_token": Operation(
        "The VS Code server's token",
        "null: this sandbox has no VS Code server.",
        answers={200: {"type": "object", "properties": {"token": {"type": ["string", "null"]}}}},
    ),
}


async def connection_token(request: Request) -> Response:
    return answer({"token": None})

"""The endpoint of the VS Code server in the sandbox."""

from __future__ import annotations

from graftbox.server.request import Request, Response, answer


async def connection_token(request: Request) -> Response:
    """``{"token": null}``: this bundle has no VS Code server to connect to."""
    return answer({"token": None})

"""The endpoint of the VS Code server in the sandbox, as clients of OpenHands ask for it."""

from __future__ import annotations

from graftbox.server.openapi import Operation
from graftbox.server.request import Request, Response, answer

OPENAPI = {
    "connection_token": Operation(
        "The VS Code server's token",
        "Starts VS Code, if it does not run. In an address it is `?tkn=TOKEN&folder=FOLDER`, at the port "
        "that VSCODE_PORT names or at /v1/proxy/vscode/. null: this sandbox has no VS Code server.",
        answers={200: {"type": "object", "properties": {"token": {"type": ["string", "null"]}}}},
    ),
}


async def connection_token(request: Request) -> Response:
    from graftbox.server.vscode import NAME, VSCodePlugin

    plugin = await request.sandbox.plugins.get(NAME)
    assert isinstance(plugin, VSCodePlugin)
    return answer({"token": await plugin.token()})

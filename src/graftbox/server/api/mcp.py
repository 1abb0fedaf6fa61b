"""The endpoints of the Model Context Protocol."""

from __future__ import annotations

from graftbox.errors import UnsupportedError
from graftbox.server.http import Application
from graftbox.server.request import Request, Response
from graftbox.server.sandbox import Sandbox


async def mount(sandbox: Sandbox) -> Application:
    """The application behind ``/mcp`` and all below it."""
    raise UnsupportedError("This server does not speak MCP yet.")


async def update_servers(request: Request) -> Response:
    raise UnsupportedError("This server does not speak MCP yet.")

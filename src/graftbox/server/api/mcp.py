"""The endpoints of the Model Context Protocol."""

from __future__ import annotations

from graftbox.server.api.model import decoded
from graftbox.server.http import Application
from graftbox.server.openapi import Operation
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.sandbox import Sandbox
from graftbox.server.schema import TEXT, Schema

SERVER: Schema = {
    "title": "StdioServer",
    "type": "object",
    "required": ["name", "command"],
    "properties": {
        "name": {**TEXT, "minLength": 1},
        "command": {**TEXT, "minLength": 1, "description": "Found on the container's PATH, or a path."},
        "args": {"type": "array", "items": TEXT},
        "env": {"type": "object", "additionalProperties": TEXT},
    },
}
UPDATED: Schema = {
    "title": "McpUpdate",
    "type": "object",
    "required": ["detail", "router_error_log"],
    "properties": {
        "detail": {"type": "string"},
        "router_error_log": {"type": "string", "description": "A line for each server that does not run."},
    },
}
OPENAPI = {
    "update_servers": Operation(
        "Replace the set of MCP servers in the sandbox",
        "Their tools are served at /mcp/sse, and with the sandbox's own at /mcp.",
        body={"type": "array", "items": SERVER},
        answers={200: UPDATED},
        errors=(400, 501),
    ),
}


async def mount(sandbox: Sandbox) -> Application:
    """The application behind ``/mcp`` and all below it."""
    return await sandbox.mcp.gateway()


async def update_servers(request: Request) -> Response:
    wanted = decoded(await request.body())
    if not isinstance(wanted, list):
        raise HTTPError(400, "Request must be a list of MCP tools to sync")
    problems: list[str] = []
    # An empty set needs no protocol.
    if wanted or request.sandbox.mcp.running:
        problems = await (await request.sandbox.mcp.gateway()).proxy.update(wanted)
    return answer({"detail": "MCP server updated successfully", "router_error_log": "\n".join(problems)})

"""The endpoints of the Model Context Protocol."""

from __future__ import annotations

from graftbox.server.api.model import decoded
from graftbox.server.http import Application
from graftbox.server.openapi import Operation
from graftbox.server.request import HTTPError, Request, Response, answer
from graftbox.server.sandbox import Sandbox
from graftbox.server.schema import Schema

SERVERS: Schema = {
    "title": "StdioServers",
    "type": "object",
    "required": ["servers"],
    "properties": {
        "servers": {
            "type": "array",
            "items": {
                "title": "StdioServerState",
                "type": "object",
                "required": ["name", "command", "state", "pid", "tools", "stderr"],
                "properties": {
                    "name": {"type": "string"},
                    "command": {"type": "array", "items": {"type": "string"}},
                    "state": {
                        "enum": ["starting", "running", "dead"],
                        "description": "A dead one is started again by the next call of a tool of it.",
                    },
                    "pid": {"type": ["integer", "null"]},
                    "tools": {"type": "array", "items": {"type": "string"}},
                    "stderr": {
                        "type": "string",
                        "description": "The last lines that it wrote there, or why it could not be started.",
                    },
                },
            },
        }
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
    "list_servers": Operation("The MCP servers in the sandbox", answers={200: SERVERS}),
    "update_servers": Operation(
        "Replace the set of MCP servers in the sandbox",
        'A list of `{"name": …, "command": …, "args": […], "env": {…}}`; what is no such object, or does not '
        "start, is named in router_error_log. Their tools are served at /mcp/sse, and with the sandbox's own "
        "at /mcp.",
        body={"type": "array"},
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


async def list_servers(request: Request) -> Response:
    mcp = request.sandbox.mcp
    return answer({"servers": (await mcp.gateway()).proxy.report() if mcp.running else []})

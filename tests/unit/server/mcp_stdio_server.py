"""A real stdio MCP server for the tests; not a test itself. Run as a program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer(os.environ.get("SERVER_NAME", "fixture"))


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def show() -> str:
    """Who and where this process is."""
    return "\n".join(
        (str(os.getpid()), str(Path.cwd()), *(f"{name}={value}" for name, value in os.environ.items()))
    )


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("as was asked for")


@server.tool()
async def wait(seconds: float, mark: str, context: Context) -> str:
    """Wait, and leave a file if that is cancelled."""
    try:
        await context.report_progress(1, 2, "half done")
        await asyncio.sleep(seconds)
    except BaseException:
        Path(mark).touch()
        raise
    return "waited"


@server.tool()
def die() -> str:
    """Write last words and be killed."""
    print("so long", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


if __name__ == "__main__":
    # Many a real server greets on the protocol's channel.
    print("Hello, this is no JSON", flush=True)
    server.run()

"""The MCP component of the real bundle, in a sandbox whose base breaks what uses its variables."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from tests.integration.bases import HOSTILE, reference

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
# Speaks just enough of the protocol, with nothing but Python's own library.
STDIO_SERVER = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    method = request["method"]
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "t", "version": "0"}}
    elif method == "tools/list":
        result = {"tools": [{"name": "environment", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        text = json.dumps({"uid": os.getuid(), "cwd": os.getcwd(), **os.environ})
        result = {"content": [{"type": "text", "text": text}]}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[dict[str, str]]:
    """The address and key of a sandbox on the hostile base."""
    command = [GRAFTBOX, "run", "--engine", "embedded", "--detach", "--json", reference("hostile")]
    started = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    try:
        yield started
    finally:
        subprocess.run([GRAFTBOX, "rm", "-f", started["name"]], check=True, capture_output=True)


def call(sandbox: dict[str, str], tool: str, **arguments: Any) -> Any:
    async def connected() -> Any:
        headers = {"Authorization": f"Bearer {sandbox['key']}"}
        async with httpx2.AsyncClient(headers=headers, timeout=60) as http_client:
            transport = streamable_http_client(f"{sandbox['url']}/mcp", http_client=http_client)
            async with McpClient(transport) as mcp:
                return await mcp.call_tool(tool, arguments)

    return asyncio.run(connected())


def test_the_sandboxs_tools_work_in_the_bundle(sandbox: dict[str, str]) -> None:
    result = call(sandbox, "shell", command="echo $LANG; uname")
    assert result.structured_content["output"] == f"{HOSTILE['LANG']}\nLinux"
    call(sandbox, "write", path="/tmp/a/b", content="written\n")
    assert call(sandbox, "read", path="/tmp/a/b").content[0].text == "written\n"
    assert call(sandbox, "grep", pattern="writ+en", path="/tmp/a").content[0].text == "b:1:written"
    assert call(sandbox, "python", code="6 * 7").content[0].text == "42"


def test_a_stdio_server_runs_in_the_bases_environment(sandbox: dict[str, str]) -> None:
    call(sandbox, "write", path="/tmp/server.py", content=STDIO_SERVER)
    # The bundle's Python, named by its file: its launcher would drop the base's variables.
    command = {"command": "/openhands/libexec/python3.13", "args": ["-IB", "/tmp/server.py"]}
    servers = [{"name": "own", **command, "env": {"MINE": "1"}}]
    request = urllib.request.Request(
        f"{sandbox['url']}/update_mcp_server",
        json.dumps(servers).encode(),
        {"X-Session-API-Key": sandbox["key"]},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response)["router_error_log"] == ""

    async def over_sse() -> Any:
        headers = {"Authorization": f"Bearer {sandbox['key']}"}
        stream = sse_client(f"{sandbox['url']}/mcp/sse", headers)
        async with stream as ends, ClientSession(*ends) as session:
            await session.initialize()
            return await session.call_tool("environment", {})

    environment = json.loads(asyncio.run(over_sse()).content[0].text)
    assert {**HOSTILE, "MINE": "1"}.items() <= environment.items()
    assert "SESSION_API_KEY" not in environment
    assert not [name for name in environment if name.startswith("GRAFTBOX_")]
    assert json.loads(call(sandbox, "own_environment").content[0].text)["MINE"] == "1"

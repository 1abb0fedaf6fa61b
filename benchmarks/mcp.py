"""The sandbox as an MCP server: what the first request costs, and what each tool call does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure

STARTS = 9
CALLS = 500
SERVER = "/openhands/bin/action-execution-server"
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
ABOUT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}}
MEGABYTE = 1_000_000


class Server:
    """One server of the bundle in a mount namespace of its own, and one connection to it."""

    def __init__(self, path: Path) -> None:
        self.connection = http.client.HTTPConnection("localhost")
        self.connection.sock = socket.socket(socket.AF_UNIX)
        self.connection.sock.connect(str(path))
        self.session: dict[str, str] = {}
        self.number = 0

    def get(self, path: str) -> Any:
        self.connection.request("GET", path)
        return json.loads(self.connection.getresponse().read())

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of one request of the protocol, as clients of the handshake eras make it."""
        self.number += 1
        body = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.connection.request("POST", "/mcp", json.dumps(body), {**HEADERS, **self.session})
        response = self.connection.getresponse()
        data = response.read()
        if session := response.getheader("mcp-session-id"):
            self.session = {"Mcp-Session-Id": session}
        result: dict[str, Any] = json.loads(data.partition(b"data: ")[2])["result"]
        return result

    def resident(self) -> float:
        """MB of resident memory."""
        return float(self.get("/server_info")["resources"]["memory"]["rss"]) / MEGABYTE


@contextlib.contextmanager
def _running(tree: Path) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "GRAFTBOX_NO_AUTH": "1"}
        environment |= {"GRAFTBOX_SOCKET": str(path), "GRAFTBOX_PORT": "0"}
        command = ["bwrap", "--dev-bind", "/", "/", "--proc", "/proc", "--die-with-parent", "--unshare-pid"]
        command += ["--as-pid-1", "--ro-bind", str(tree / "openhands"), "/openhands", SERVER]
        process = subprocess.Popen(
            [*command, "--working-dir", folder], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError):
                    server = Server(path)
                    break
                assert time.monotonic() < deadline, "the server did not get alive within 30 s"
                time.sleep(0.005)
            assert server.get("/alive") == {"status": "ok"}
            yield server
            server.connection.close()
        finally:
            process.terminate()
            process.wait()


def _first_request(tree: Path) -> tuple[float, float, float]:
    """Seconds, and MB of memory before and after."""
    with _running(tree) as server:
        # A shell that is starting would be measured too.
        time.sleep(1)
        before = server.resident()
        start = time.perf_counter()
        server.ask("initialize", ABOUT)
        return time.perf_counter() - start, before, server.resident()


def _calls(tree: Path, tool: str, arguments: dict[str, Any]) -> tuple[float, ...]:
    """Milliseconds of each call."""
    samples = []
    with _running(tree) as server:
        server.ask("initialize", ABOUT)
        server.ask(
            "tools/call", {"name": "write", "arguments": {"path": "file", "content": "0123456789" * 1000}}
        )
        for _ in range(CALLS + 10):
            start = time.perf_counter()
            result = server.ask("tools/call", {"name": tool, "arguments": arguments})
            samples.append((time.perf_counter() - start) * 1000)
            assert not result["isError"], result
    return tuple(samples[10:])


def figures(tree: Path) -> list[Figure]:
    """``tree`` holds the unpacked ``openhands/``, with the component mcp."""
    firsts = [_first_request(tree) for _ in range(STARTS + 1)][1:]
    seconds, before, after = zip(*firsts, strict=True)
    return [
        Figure("first MCP request, loading the protocol's library", "s", seconds),
        Figure("a later one: tool `read` of 10 kB", "ms", _calls(tree, "read", {"path": "file"})),
        Figure("tool `shell` with `true`", "ms", _calls(tree, "shell", {"command": "true"})),
        Figure("resident memory before the first MCP request", "MB", before),
        Figure("resident memory after it", "MB", after),
    ]


if __name__ == "__main__":
    from benchmarks.measure import table
    from graftbox.bundle import build as bundle_build
    from graftbox.bundle import tree as bundle_tree
    from graftbox.store import Store

    manifest = bundle_build.current()
    assert manifest is not None, "build the bundle first"
    print(table("The sandbox as an MCP server", figures(bundle_tree.unpacked(manifest, Store()))))

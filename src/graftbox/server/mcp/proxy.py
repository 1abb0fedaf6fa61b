"""The MCP servers inside the sandbox, as a set that clients replace, and the names of their tools outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mcp_types as types

from graftbox.errors import GraftboxError, UsageError
from graftbox.server.mcp.stdio import ServerSpec, StdioServer

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

UPDATE_SECONDS = 50.0
"""An update is answered after this, started or not: the model's client waits for 60 s."""
MAX_SERVERS = 64


class Proxy:
    """``changed`` is called when there are other tools than before."""

    def __init__(self, sandbox: Sandbox, changed: Callable[[], None]) -> None:
        self.sandbox = sandbox
        self.servers: dict[str, StdioServer] = {}
        self._changed = changed
        self._turn = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()

    async def update(self, wanted: list[Any]) -> list[str]:
        """Make ``wanted`` (see `ServerSpec.parse`) the whole set, and start what is new in it.

        A server that is wanted as it is goes on running. Returns what went wrong, a sentence each.
        """
        async with self._turn:
            specs, problems = _parsed(wanted)
            for name, server in list(self.servers.items()):
                if specs.get(name) != server.spec:
                    del self.servers[name]
                    self._stop(server)
            for name, spec in specs.items():
                if name not in self.servers:
                    self.servers[name] = StdioServer(spec, self.sandbox, self._changed)
            # In the order that was asked for, so that lists of tools are in it too.
            self.servers = {name: self.servers[name] for name in specs}
            problems += await self._start(list(self.servers.values()))
            self._changed()
            return problems

    async def _start(self, servers: list[StdioServer]) -> list[str]:
        if not servers:
            return []
        starting = {server.name: asyncio.create_task(server.session()) for server in servers}
        await asyncio.wait(starting.values(), timeout=UPDATE_SECONDS)
        problems = []
        for name, task in starting.items():
            if not task.done():
                problems.append(
                    f"The MCP server {name} is still starting; its tools appear when it is ready."
                )
                task.cancel()
            elif error := task.exception():
                problems.append(str(error))
        return problems

    def _stop(self, server: StdioServer) -> None:
        task = asyncio.create_task(server.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def tools(self, *, prefixed: bool) -> dict[str, tuple[StdioServer, types.Tool]]:
        """The tools by their names outside: ``<server>_<tool>``, or as they are without ``prefixed``."""
        found = {}
        for server in self.servers.values():
            for tool in server.tools:
                name = f"{server.name}_{tool.name}" if prefixed else tool.name
                found[name] = server, tool
        return found

    def report(self) -> list[dict[str, Any]]:
        """What there is to know of each server, as JSON."""
        return [
            {
                "name": server.name,
                "command": [server.spec.command, *server.spec.args],
                "state": server.state,
                "pid": server.pid,
                "tools": [tool.name for tool in server.tools],
                "stderr": server.said,
            }
            for server in self.servers.values()
        ]

    async def close(self) -> None:
        async with self._turn:
            for server in self.servers.values():
                self._stop(server)
            self.servers = {}
            if self._stopping:
                await asyncio.wait(self._stopping)


def _parsed(wanted: list[Any]) -> tuple[dict[str, ServerSpec], list[str]]:
    specs: dict[str, ServerSpec] = {}
    problems = []
    for value in wanted:
        try:
            spec = ServerSpec.parse(value)
            if spec.name in specs:
                raise UsageError(f"Two MCP servers are called {spec.name}; the first one is used.")
            if len(specs) >= MAX_SERVERS:
                raise UsageError(f"{spec.name} is one more than the {MAX_SERVERS} MCP servers allowed.")
        except GraftboxError as error:
            problems.append(str(error))
        else:
            specs[spec.name] = spec
    return specs, problems

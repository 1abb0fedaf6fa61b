"""The ASGI application behind ``/mcp``: two MCP servers on two transports, and the tools they offer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import mcp_types as types
import sse_starlette.sse
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError

from graftbox import __version__
from graftbox.errors import GraftboxError
from graftbox.server.http import Message, Receive, Send
from graftbox.server.mcp import resources
from graftbox.server.mcp.proxy import Proxy
from graftbox.server.mcp.stdio import StdioServer
from graftbox.server.mcp.tool import Call, failed
from graftbox.server.mcp.tools import BY_NAME, TOOLS

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

IDLE_SECONDS = 1800.0
"""A session without requests ends after this; its client then begins another."""
MAX_SESSIONS = 1000
MAX_STREAMS = 64
"""Clients of ``/mcp/sse`` at once, each of which holds a connection."""

Context = ServerRequestContext[Any, Any]
Find = Callable[[], dict[str, tuple[StdioServer, types.Tool]]]
"""Finds the stdio servers' tools by the names they have here."""

# Its watcher would look twice a second, for ever, whether uvicorn, which is not here, wants to end.
sse_starlette.sse._ensure_watcher_started_on_this_loop = lambda: None
# It reports every session it makes, and every mistake of a client.
logging.getLogger("mcp").setLevel(logging.ERROR)


class McpServer(Server[Any]):
    """A server whose list of tools changes: ``find`` finds the stdio servers', ``own`` adds the sandbox's."""

    def __init__(self, sandbox: Sandbox, find: Find, *, own: bool, instructions: str) -> None:
        self.sandbox = sandbox
        self.find = find
        self.own = own
        self.bus = InMemorySubscriptionBus()
        self.connections: WeakSet[Connection] = WeakSet()
        super().__init__(
            "graftbox",
            title="graftbox sandbox",
            version=__version__,
            instructions=instructions,
            get_tool_input_schema=self._input_schema,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_subscriptions_listen=ListenHandler(self.bus, max_subscriptions=MAX_STREAMS),
            on_list_resources=self._list_files if own else None,
            on_list_resource_templates=self._list_templates if own else None,
            on_read_resource=self._read_file if own else None,
        )
        # The only one there is: spans for a tracer that nobody installs here.
        self.middleware.clear()

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        changes = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(changes, experimental_capabilities, extensions)

    async def announce(self) -> None:
        """Tell every client that there are other tools."""
        await self.bus.publish(ToolsListChanged())
        for connection in list(self.connections):
            await connection.send_tool_list_changed()

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        if self.own and name in BY_NAME:
            return BY_NAME[name].schema
        found = self.find().get(name)
        return found[1].input_schema if found else None

    async def _list(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        # The session that handlers see is this one request's; only its connection lasts.
        self.connections.add(context.session._connection)
        tools = [tool.listed() for tool in TOOLS if self.own and tool.present(self.sandbox)]
        taken = {tool.name for tool in tools}
        for name, (_, tool) in self.find().items():
            if name not in taken:
                tools.append(tool.model_copy(update={"name": name}))
        return types.ListToolsResult(tools=tools)

    async def _list_files(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        return await resources.listed(self.sandbox, params.cursor if params else None)

    async def _list_templates(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=[resources.TEMPLATE])

    async def _read_file(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        return await resources.read(self.sandbox, str(params.uri))

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        name, arguments = params.name, params.arguments
        own = BY_NAME.get(name) if self.own else None
        if own is not None and own.present(self.sandbox):
            return await own.call(Call(self.sandbox, context, arguments or {}))
        found = self.find().get(name)
        if found is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name}")
        self.sandbox.clock.action()
        server, tool = found
        try:
            return await server.call(tool.name, arguments, context.session.report_progress)
        except GraftboxError as error:
            return failed(str(error))


class Gateway:
    """``proxy``: the stdio servers; ``full``: everything, at ``/mcp``; ``bridge``: theirs alone."""

    def __init__(
        self, sandbox: Sandbox, *, idle: float = IDLE_SECONDS, max_sessions: int = MAX_SESSIONS
    ) -> None:
        self.proxy = Proxy(sandbox, self._changed)
        self.full = McpServer(
            sandbox, lambda: self.proxy.tools(prefixed=True), own=True, instructions=_instructions(sandbox)
        )
        self.bridge = McpServer(
            sandbox, self._bridged, own=False, instructions="The MCP servers inside this sandbox."
        )
        body = sandbox.settings.limits.max_body_bytes
        self.manager = StreamableHTTPSessionManager(
            self.full,
            session_idle_timeout=idle,
            max_sessions=max_sessions,
            max_request_body_size=body,
        )
        self.sse = SseServerTransport("/mcp/messages/", max_request_body_size=body)
        self.streams = 0
        self._over = asyncio.Event()
        self._announcing: asyncio.Task[None] | None = None
        self._announce_again = False

    def _bridged(self) -> dict[str, tuple[StdioServer, types.Tool]]:
        return self.proxy.tools(prefixed=len(self.proxy.servers) > 1)

    async def open(self) -> None:
        started = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run(started))
        await started

    async def _run(self, started: asyncio.Future[None]) -> None:
        async with self.manager.run():
            started.set_result(None)
            await self._over.wait()

    async def close(self) -> None:
        """End every session and every stdio server."""
        self._over.set()
        await self._running
        await self.proxy.close()

    def _changed(self) -> None:
        self._announce_again = True
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._announce())

    async def _announce(self) -> None:
        while self._announce_again:
            self._announce_again = False
            await self.full.announce()
            await self.bridge.announce()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/")
        if path == "/mcp":
            await self.manager.asgi_app(scope, receive, send)
        elif path == "/mcp/messages":
            await self.sse.handle_post_message(scope, receive, send)
        elif path == "/mcp/sse" and scope["method"] == "GET":
            await self._stream(scope, receive, send)
        else:
            await _refuse(send, *((405, "Method Not Allowed") if path == "/mcp/sse" else (404, "Not Found")))

    async def _stream(self, scope: Message, receive: Receive, send: Send) -> None:
        if self.streams >= MAX_STREAMS:
            await _refuse(send, 503, f"{MAX_STREAMS} clients are connected, which is the limit.")
            return
        self.streams += 1
        try:
            async with self.sse.connect_sse(scope, receive, send) as (read, write):
                await self.bridge.run(read, write, self.bridge.create_initialization_options())
        finally:
            self.streams -= 1


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = b'{"detail":"' + detail.encode() + b'"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _instructions(sandbox: Sandbox) -> str:
    return (
        "A Linux sandbox. Its tools run inside it: commands, Python and files there are not the client's. "
        f"Work in {sandbox.settings.working_dir}."
    )

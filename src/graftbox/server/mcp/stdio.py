"""One MCP server inside the sandbox: a process that speaks the protocol on its standard input and output."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.session import ClientSession, IncomingMessage
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

from graftbox import __version__
from graftbox.errors import GraftboxError, TransportError, UsageError
from graftbox.server.environment import as_mapping, find_program
from graftbox.server.mcp.process import LineProcess, LineTooLongError

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

START_SECONDS = 120.0
"""For a server to answer its first request; the first start of one that npx or uvx has to fetch is slow."""
MAX_TOOLS = 1000

log = logging.getLogger("graftbox.mcp")


@dataclass(frozen=True)
class ServerSpec:
    """How a server is started; ``env`` comes on top of the container's own variables."""

    name: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, value: Any) -> ServerSpec:
        """From ``{"name", "command", "args": […], "env": {…}}``; raises `UsageError`."""
        if not isinstance(value, dict):
            raise UsageError(f"An MCP server is an object with name and command, not {value!r:.100}.")
        name, command = value.get("name"), value.get("command")
        args, env = value.get("args") or [], value.get("env") or {}
        if not isinstance(name, str) or not name or not isinstance(command, str) or not command:
            raise UsageError(f"An MCP server needs a name and a command: {value!r:.200}.")
        if not isinstance(args, list) or not all(isinstance(word, str) for word in args):
            raise UsageError(f"The args of the MCP server {name} must be a list of strings.")
        if not isinstance(env, dict) or not all(isinstance(word, str) for word in env.values()):
            raise UsageError(f"The env of the MCP server {name} must be an object of strings.")
        for word in (name, command, *args, *env, *env.values()):
            if "\0" in word or any("\ud800" <= char <= "\udfff" for char in word):
                raise UsageError(f"The MCP server {name!r} has a word that is no text: {word!r:.100}.")
        if any("=" in key or not key for key in env):
            raise UsageError(f"The MCP server {name} has a variable whose name is empty or holds '='.")
        return cls(name, command, tuple(args), tuple(env.items()))


class StdioServer:
    """Runs from its first use until `stop`; one that has died is started again by its next use.

    ``tools`` are those of its last answer; ``changed`` is called when they have become others.
    """

    def __init__(self, spec: ServerSpec, sandbox: Sandbox, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.sandbox = sandbox
        self.tools: list[types.Tool] = []
        self._process: LineProcess | None = None
        self._failure = ""
        self._changed = changed
        self._stopped = False
        self._over = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._session: asyncio.Future[ClientSession] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> str:
        """ "starting", "running", or "dead" until the next call starts it again."""
        if self._life is None or self._life.done() or self._over.is_set():
            return "dead"
        return "running" if self._session is not None and self._session.done() else "starting"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.state != "dead" else None

    @property
    def said(self) -> str:
        """The last lines of its standard error, or why it could not be started."""
        return self._process.errors if self._process is not None else self._failure

    async def session(self) -> ClientSession:
        """Its running session; raises `TransportError` when it does not start."""
        if self._stopped:
            raise TransportError(f"The MCP server {self.name} was removed.")
        if self._over.is_set():
            await self._ended()
        if self._session is None or self._life is None or self._life.done():
            self._over = asyncio.Event()
            self._session = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._live(self._session, self._over))
        return await asyncio.shield(self._session)

    async def call(
        self, tool: str, arguments: dict[str, Any] | None, report: ProgressFnT
    ) -> types.CallToolResult:
        """What ``tool`` answers; raises `TransportError` when the server can't be reached or dies, `MCPError`
        for what the server itself refuses.
        """
        session = await self.session()
        over = self._over
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=tool, arguments=arguments))
        try:
            return await session.send_request(request, types.CallToolResult, progress_callback=report)
        except MCPError as error:
            if error.code != types.CONNECTION_CLOSED and not over.is_set():
                raise
            await self._ended()
            raise TransportError(f"{self._death} It is started again by the next call.") from error
        except ValueError as error:
            raise TransportError(
                f"The MCP server {self.name} gave an answer that the protocol does not know: {error}"
            ) from error

    async def stop(self) -> None:
        """End it for good."""
        self._stopped = True
        self._over.set()
        await self._ended()

    async def _ended(self) -> None:
        if self._life is not None:
            await asyncio.wait({self._life})

    async def _live(self, ready: asyncio.Future[ClientSession], over: asyncio.Event) -> None:
        """One life of the process, from its start to its end."""
        try:
            process = await self._start()
        except GraftboxError as error:
            self._process, self._failure = None, str(error)
            _fail(ready, error)
            return
        except Exception as error:
            log.exception("The MCP server %s failed", self.name)
            _fail(ready, TransportError(f"The MCP server {self.name} failed: {error}"))
            return
        self._process = process
        try:
            await self._converse(process, ready, over)
        except Exception as error:
            # Only what nobody foresaw; a server's misbehaviour must not take ours along.
            log.exception("The MCP server %s failed", self.name)
            _fail(ready, TransportError(f"The MCP server {self.name} failed: {error}"))
        finally:
            await process.stop()
            self._death = _obituary(self.name, process)
            _fail(ready, TransportError(self._death))

    async def _start(self) -> LineProcess:
        spec, identity = self.spec, self.sandbox.identity
        entries = identity.environment(self.sandbox.environment.for_the_user())
        own = {os.fsencode(key): os.fsencode(value) for key, value in spec.env}
        environment = {**as_mapping(entries), **own}
        cwd = self.sandbox.settings.working_dir
        cwd = cwd if Path(cwd).is_dir() else "/"
        search = os.fsdecode(environment.get(b"PATH", b"")) or os.defpath
        path = find_program(spec.command, search, cwd)
        if "/" in spec.command:
            path = str(Path(cwd, spec.command))
        if path is None:
            raise TransportError(
                f"The MCP server {self.name} did not start: {spec.command} was not found on PATH ({search}). "
                "Use an image that has it, or give its full path."
            )
        try:
            return await LineProcess.start((path, *spec.args), environment, cwd, identity.popen())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise TransportError(f"The MCP server {self.name} did not start: {path}: {reason}.") from error

    async def _converse(
        self, process: LineProcess, ready: asyncio.Future[ClientSession], over: asyncio.Event
    ) -> None:
        incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as group, incoming, read, write, outgoing:
            group.start_soon(_receive, process, incoming, over)
            group.start_soon(_transmit, process, outgoing)

            async def hear(message: IncomingMessage) -> None:
                if isinstance(message, types.ToolListChangedNotification) and ready.done():
                    group.start_soon(self._list_again, session)

            about = types.Implementation(name="graftbox", version=__version__)
            group.start_soon(_cancel_after, over, group.cancel_scope)
            async with ClientSession(read, write, message_handler=hear, client_info=about) as session:
                if await self._greet(session, ready):
                    await anyio.sleep_forever()
            group.cancel_scope.cancel()

    async def _greet(self, session: ClientSession, ready: asyncio.Future[ClientSession]) -> bool:
        try:
            with anyio.fail_after(START_SECONDS):
                await session.initialize()
                self.tools = await _tools(session)
        except TimeoutError:
            text = f"The MCP server {self.name} did not answer within {START_SECONDS:g} s and was ended."
            _fail(ready, TransportError(text))
        except (MCPError, RuntimeError, ValueError) as error:
            if not (isinstance(error, MCPError) and error.code == types.CONNECTION_CLOSED):
                _fail(ready, TransportError(f"The MCP server {self.name} did not start: {error}"))
        else:
            ready.set_result(session)
            self._changed()
            return True
        return False

    async def _list_again(self, session: ClientSession) -> None:
        try:
            self.tools = await _tools(session)
        except (MCPError, ValueError) as error:
            log.warning("The MCP server %s does not list its tools any more: %s", self.name, error)
        else:
            self._changed()


def _fail(ready: asyncio.Future[ClientSession], error: GraftboxError) -> None:
    if not ready.done():
        ready.set_exception(error)
        # Whoever asked may be gone: then nobody else retrieves it.
        ready.exception()


def _obituary(name: str, process: LineProcess) -> str:
    code = process.returncode
    if code is None:
        how = "does not end"
    else:
        how = f"was killed by signal {-code}" if code < 0 else f"exited with exit code {code}"
    said = f" Its last words: {process.errors}" if process.errors else ""
    return f"The MCP server {name} {how}.{said}"


async def _tools(session: ClientSession) -> list[types.Tool]:
    tools: list[types.Tool] = []
    cursor = None
    while len(tools) < MAX_TOOLS:
        try:
            page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        except MCPError as error:
            # A server of resources or prompts alone.
            if error.code == types.METHOD_NOT_FOUND:
                break
            raise
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return tools[:MAX_TOOLS]


async def _cancel_after(event: asyncio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _receive(
    process: LineProcess,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    over: asyncio.Event,
) -> None:
    try:
        while lines := await process.lines():
            for line in lines:
                try:
                    message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    # Many a server greets on the wrong channel.
                    continue
                await incoming.send(SessionMessage(message))
    except (LineTooLongError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    finally:
        over.set()
        incoming.close()


async def _transmit(process: LineProcess, outgoing: MemoryObjectReceiveStream[SessionMessage]) -> None:
    async for message in outgoing:
        text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
        await process.write(text.encode() + b"\n")

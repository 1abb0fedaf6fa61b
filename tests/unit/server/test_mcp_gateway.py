"""What MCP clients leave behind: nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client

from graftbox.errors import UnsupportedError
from graftbox.server import mcp as package
from graftbox.server.environment import Environment
from graftbox.server.host import Host
from graftbox.server.identity import Identity
from graftbox.server.mcp import Mcp, gateway, proxy
from graftbox.server.mcp.gateway import Gateway
from graftbox.server.sandbox import Sandbox
from graftbox.server.settings import Settings

SERVER = Path(__file__).with_name("mcp_stdio_server.py")
ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": ABOUT}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
HEADERS = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client takes a server that is silent for ten seconds for one of an older era."""
    monkeypatch.setattr("mcp.client.session.DISCOVER_TIMEOUT_SECONDS", 120.0)


def sandbox(folder: Path) -> Sandbox:
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    entries = tuple(os.fsencode(f"{name}={value}") for name, value in variables.items())
    return Sandbox(Settings(port=None, working_dir=str(folder)), Environment(entries))


@asynccontextmanager
async def running(folder: Path, **limits: Any) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway on a port of its own, in this process, and its address."""
    made = Gateway(sandbox(folder), **limits)
    await made.open()
    host = Host(made)
    await host.listen("127.0.0.1", 0, None)
    try:
        yield made, f"http://127.0.0.1:{host.port}/mcp"
    finally:
        await host.close()
        await made.close()


def stdio_server(name: str = "fixture") -> dict[str, Any]:
    return {"name": name, "command": sys.executable, "args": [str(SERVER)]}


async def settled(count: Callable[[], int], most: int) -> None:
    """Wait until there are no more than these."""
    for _ in range(3000):
        if count() <= most:
            return
        await asyncio.sleep(0.02)
    names = [str(task.get_coro()) for task in asyncio.all_tasks()]
    raise AssertionError(f"{count()} instead of {most}: {names}")


async def at_rest(count: Callable[[], int]) -> int:
    """How many there are when it has been the same number for half a second."""
    found, since = count(), 0
    while since < 25:
        await asyncio.sleep(0.02)
        found, since = (found, since + 1) if count() == found else (count(), 0)
    return found


def tasks() -> int:
    return len(asyncio.all_tasks())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[str]:
    pid = os.getpid()
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_clients_leave_no_task_behind_however_they_go(tmp_path: Path) -> None:
    async def stays(mcp: McpClient | ClientSession) -> None:
        assert (await mcp.list_tools()).tools

    async def leaves(mcp: McpClient | ClientSession) -> None:
        arguments = {"seconds": 60, "mark": str(tmp_path / "mark")}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await mcp.call_tool("wait" if isinstance(mcp, ClientSession) else "fixture_wait", arguments)

    async def over_http(url: str, work: Callable[[Any], Awaitable[None]], mode: str) -> None:
        async with McpClient(url, mode=mode) as mcp:
            await work(mcp)

    async def over_sse(url: str, work: Callable[[Any], Awaitable[None]]) -> None:
        async with sse_client(f"{url}/sse") as streams, ClientSession(*streams) as session:
            await session.initialize()
            await work(session)

    async def test() -> None:
        async with running(tmp_path) as (made, url):
            assert await made.proxy.update([stdio_server()]) == []

            async def everybody() -> None:
                for work in (stays, leaves):
                    await over_sse(url, work)
                    for mode in ("auto", "legacy"):
                        await over_http(url, work, mode)

            await everybody()
            await settled(lambda: len(made.manager._server_instances), 0)
            before, files = await at_rest(tasks), await at_rest(descriptors)
            for _ in range(2):
                await everybody()
            await settled(tasks, before)
            await settled(descriptors, files)
            assert made.streams == 0
            assert made.sse._read_stream_writers == {}

    asyncio.run(test())


def test_nothing_is_left_of_a_closed_gateway(tmp_path: Path) -> None:
    others = children()

    started: list[set[str]] = []

    async def once() -> None:
        async with running(tmp_path) as (made, _):
            assert await made.proxy.update([stdio_server(), stdio_server("other")]) == []
            started.append(children() - others)

    async def test() -> None:
        await once()
        before = await at_rest(tasks), await at_rest(descriptors)
        await once()
        assert [len(pids) for pids in started] == [2, 2]
        assert not children() & (started[0] | started[1])
        await settled(tasks, before[0])
        await settled(descriptors, before[1])

    asyncio.run(test())


def test_one_session_too_many_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        limited = running(tmp_path, max_sessions=2)
        async with limited as (_, url), httpx2.AsyncClient(headers=HEADERS, timeout=60) as client:
            answers = [await client.post(url, json=INITIALIZE) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 503]

    asyncio.run(test())


def test_a_session_that_is_idle_expires_and_makes_room(tmp_path: Path) -> None:
    async def test() -> None:
        limited = running(tmp_path, idle=0.4, max_sessions=1)
        async with limited as (made, url), httpx2.AsyncClient(headers=HEADERS, timeout=60) as client:
            first = await client.post(url, json=INITIALIZE)
            assert first.status_code == 200
            await settled(lambda: len(made.manager._server_instances), 0)
            expired = {"Mcp-Session-Id": first.headers["mcp-session-id"]}
            assert (await client.post(url, json=LIST, headers=expired)).status_code == 404
            assert (await client.post(url, json=INITIALIZE)).status_code == 200

    asyncio.run(test())


def test_one_stream_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MAX_STREAMS", 1)

    async def test() -> None:
        async with running(tmp_path) as (_, url), httpx2.AsyncClient(timeout=60) as client:
            async with client.stream("GET", f"{url}/sse") as stream:
                assert stream.status_code == 200
                assert (await client.get(f"{url}/sse")).status_code == 503
            assert (await client.post(f"{url}/sse")).status_code == 405
            assert (await client.get(f"{url}/nothing")).status_code == 404

    asyncio.run(test())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which alone can become another user")
def test_stdio_servers_run_as_the_sandboxs_user(tmp_path: Path) -> None:
    async def test() -> str:
        async with running(tmp_path) as (made, _):
            made.proxy.sandbox.identity = Identity(
                65534, 65533, (65533, 65532), "someone", "/h", switched=True
            )
            command = {"command": "sh", "args": ["-c", "echo $(id -u) $(id -G) $USER $HOME >&2"]}
            (problem,) = await made.proxy.update([{"name": "who", **command}])
            return problem

    assert asyncio.run(test()).endswith("Its last words: 65534 65533 65532 someone /h")


def test_a_server_that_never_answers_holds_up_neither_an_update_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "UPDATE_SECONDS", 0.3)
    others = children()

    async def test() -> None:
        async with asyncio.timeout(60), running(tmp_path) as (made, _):
            (problem,) = await made.proxy.update([{"name": "mute", "command": "sleep", "args": ["60"]}])
            assert "mute is still starting" in problem
            (report,) = made.proxy.report()
            assert (report["state"], report["command"], report["tools"]) == ("starting", ["sleep", "60"], [])
        assert not children() - others

    asyncio.run(test())


def test_without_the_library_the_server_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert package.available() is None
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    assert "component mcp" in str(package.available())

    async def test() -> None:
        with pytest.raises(UnsupportedError, match="component mcp"):
            await Mcp(sandbox(tmp_path)).gateway()

    asyncio.run(test())

"""The MCP servers inside the sandbox, as clients see them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client

SERVER = Path(__file__).with_name("mcp_stdio_server.py")
DONE = "MCP server updated successfully"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client takes a server that is silent for ten seconds for one of an older era."""
    monkeypatch.setattr("mcp.client.session.DISCOVER_TIMEOUT_SECONDS", 120.0)


def spec(name: str = "fixture", **env: str) -> dict[str, Any]:
    return {"name": name, "command": sys.executable, "args": [str(SERVER)], "env": env}


def update(server: Any, *specs: Any) -> str:
    status, answer = server.ask("POST", "/update_mcp_server", list(specs))
    assert (status, answer["detail"]) == (200, DONE)
    log = answer["router_error_log"]
    assert isinstance(log, str)
    return log


def over_sse(server: Any, work: Callable[[ClientSession], Awaitable[Any]], **headers: str) -> Any:
    async def connected() -> Any:
        url = f"http://127.0.0.1:{server.port}/mcp/sse"
        async with sse_client(url, headers) as streams, ClientSession(*streams) as session:
            await session.initialize()
            return await work(session)

    return asyncio.run(connected())


def over_http(server: Any, work: Callable[[McpClient], Awaitable[Any]], mode: str = "auto") -> Any:
    async def connected() -> Any:
        async with McpClient(f"http://127.0.0.1:{server.port}/mcp", mode=mode) as mcp:
            return await work(mcp)

    return asyncio.run(connected())


def names(server: Any) -> list[str]:
    async def work(session: ClientSession) -> list[str]:
        return [tool.name for tool in (await session.list_tools()).tools]

    found = over_sse(server, work)
    assert isinstance(found, list)
    return found


def call(server: Any, tool: str, **arguments: Any) -> Any:
    return over_sse(server, lambda session: session.call_tool(tool, arguments))


def shown(server: Any, tool: str = "show") -> list[str]:
    result = call(server, tool)
    assert not result.is_error
    text = result.content[0].text
    assert isinstance(text, str)
    return text.splitlines()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def client(client: Any) -> Any:
    """The module's server, without any stdio server yet."""
    assert update(client) == ""
    return client


def test_one_server_keeps_the_names_of_its_tools_and_several_are_told_apart(client: Any) -> None:
    assert names(client) == []
    assert update(client, spec()) == ""
    assert names(client) == ["add", "show", "fail", "wait", "die"]
    assert call(client, "add", a=1, b=2).structured_content == {"result": 3}
    # The model's proxy keeps what the first update made; here the last one counts.
    assert update(client, spec(), spec("other")) == ""
    assert names(client)[0] == "fixture_add"
    assert names(client)[5] == "other_add"
    assert call(client, "other_add", a=1, b=2).content[0].text == "3"
    assert update(client, spec("other")) == ""
    assert names(client)[0] == "add"


def test_the_tools_appear_beside_the_sandboxs_own(client: Any) -> None:
    update(client, spec())

    async def work(mcp: McpClient) -> Any:
        tools = {tool.name for tool in (await mcp.list_tools()).tools}
        return tools, await mcp.call_tool("fixture_add", {"a": 20, "b": 3})

    tools, result = over_http(client, work)
    assert {"shell", "read", "fixture_add"} <= tools
    assert result.content[0].text == "23"


def test_a_server_has_the_containers_environment_with_its_own_on_top(start: Any) -> None:
    server = start(
        environment={"SESSION_API_KEY": "unused", "GRAFTBOX_SECRET": "x", "COLOUR": "red", "A": "1"}
    )
    update(server, spec(A="2"))
    _, folder, *environment = shown(server)
    assert folder == str(server.folder)
    assert {"COLOUR=red", "A=2", f"HOME={server.folder}"} <= set(environment)
    assert not [entry for entry in environment if entry.startswith(("GRAFTBOX_", "SESSION_API_KEY"))]


def test_servers_that_do_not_start_are_named_and_the_others_run(client: Any) -> None:
    broken = [
        {"name": "absent", "command": "no-such-program", "args": []},
        {"name": "folder", "command": "/usr", "args": []},
        {"name": "mute", "command": "sh", "args": ["-c", "echo cannot find my module >&2; exit 3"]},
        {"name": "no-command"},
        7,
        {"name": "nul", "command": "a\0b"},
        {"name": "half\ud800", "command": "true"},
        {"name": "odd", "command": "true", "env": {"A=B": "c"}},
        spec(),
    ]
    log = update(client, spec(), *broken).splitlines()
    assert "no-such-program was not found on PATH" in "".join(line for line in log if "absent" in line)
    assert "/usr: Permission denied" in "".join(line for line in log if "folder" in line)
    mute = "".join(line for line in log if "mute" in line)
    assert "exited with exit code 3" in mute
    assert "cannot find my module" in mute
    assert len([line for line in log if "needs a name and a command" in line]) == 1
    assert len([line for line in log if "has a word that is no text" in line]) == 2
    assert len(log) == 9
    assert call(client, "fixture_add", a=1, b=1).content[0].text == "2"


def test_a_tools_failure_is_passed_on(client: Any) -> None:
    update(client, spec())
    result = call(client, "fail")
    assert result.is_error
    assert "as was asked for" in result.content[0].text


def test_a_server_that_is_killed_says_so_and_is_started_again_by_the_next_call(client: Any) -> None:
    update(client, spec())
    pid = int(shown(client)[0])
    os.kill(pid, signal.SIGKILL)
    result = call(client, "add", a=1, b=2)
    if result.is_error:
        # The call was on its way already.
        assert "was killed by signal 9" in result.content[0].text
        result = call(client, "add", a=1, b=2)
    assert result.content[0].text == "3"
    assert int(shown(client)[0]) != pid


def test_a_call_that_kills_its_server_gets_its_last_words(client: Any) -> None:
    update(client, spec())
    result = call(client, "die")
    assert result.is_error
    assert "The MCP server fixture was killed by signal 9. Its last words:" in result.content[0].text
    assert "so long It is started again by the next call." in result.content[0].text
    assert call(client, "add", a=1, b=2).content[0].text == "3"


def test_the_state_of_each_server_can_be_asked_for(client: Any) -> None:
    def states() -> dict[str, Any]:
        status, answer = client.ask("GET", "/v1/mcp/servers")
        assert status == 200
        return {each["name"]: each for each in answer["servers"]}

    update(client, spec(), {"name": "absent", "command": "no-such-program"})
    assert states()["fixture"]["state"] == "running"
    assert states()["fixture"]["pid"] == int(shown(client, "fixture_show")[0])
    assert states()["fixture"]["tools"] == ["add", "show", "fail", "wait", "die"]
    assert states()["absent"]["state"] == "dead"
    assert "no-such-program was not found" in states()["absent"]["stderr"]
    call(client, "fixture_die")
    assert states()["fixture"]["state"] == "dead"
    assert states()["fixture"]["pid"] is None
    assert "so long" in states()["fixture"]["stderr"]


def test_a_server_goes_on_over_an_update_that_keeps_it_and_ends_with_one_that_does_not(client: Any) -> None:
    update(client, spec())
    pid = int(shown(client)[0])
    update(client, spec(), spec("other"))
    assert int(shown(client, "fixture_show")[0]) == pid
    update(client, spec(CHANGED="1"))
    assert int(shown(client)[0]) != pid
    wait_until(lambda: not is_alive(pid))
    last = int(shown(client)[0])
    update(client)
    wait_until(lambda: not is_alive(last))


def test_progress_and_cancellation_reach_the_server(client: Any, tmp_path: Path) -> None:
    update(client, spec())
    mark = tmp_path / "cancelled"
    heard = asyncio.Event()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        assert (progress, total, message) == (1, 2, "half done")
        heard.set()

    async def work(mcp: McpClient) -> None:
        arguments = {"seconds": 60, "mark": str(mark)}
        running = asyncio.create_task(mcp.call_tool("fixture_wait", arguments, progress_callback=report))
        await heard.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    over_http(client, work, "legacy")
    wait_until(mark.exists)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_connected_clients_hear_of_new_tools(client: Any, mode: str) -> None:
    heard = asyncio.Event()

    async def hear(message: object) -> None:
        if type(message).__name__ == "ToolListChangedNotification":
            heard.set()

    async def connected() -> set[str]:
        url = f"http://127.0.0.1:{client.port}/mcp"
        async with McpClient(url, mode=mode, message_handler=hear) as mcp:
            await mcp.list_tools()
            if mode == "legacy":
                changing = asyncio.to_thread(update, client, spec())
                await asyncio.gather(changing, asyncio.wait_for(heard.wait(), 60))
            else:
                async with mcp.listen(tools_list_changed=True) as events:
                    await asyncio.to_thread(update, client, spec())
                    async for _ in events:
                        break
            return {tool.name for tool in (await mcp.list_tools(cache_mode="bypass")).tools}

    assert "fixture_add" in asyncio.run(connected())


def test_the_headers_of_openhands_clients_open_the_door(start: Any) -> None:
    server = start(auth=True, environment={"SESSION_API_KEY": "secret"})
    key = {"X-Session-API-Key": "secret"}
    assert server.ask("POST", "/update_mcp_server", [spec()], key)[1]["router_error_log"] == ""

    async def work(session: ClientSession) -> int:
        return len((await session.list_tools()).tools)

    assert over_sse(server, work, Authorization="Bearer secret", s="secret", **key) == 5
    assert over_sse(server, work, Authorization="Bearer secret") == 5
    assert over_sse(server, work, **key) == 5
    for wrong in ({"Authorization": "Bearer wrong"}, {}):
        with pytest.raises(httpx2.HTTPStatusError, match="403"):
            over_sse(server, work, **wrong)


def test_when_the_server_ends_its_servers_end_with_it(start: Any) -> None:
    server = start()
    update(server, spec(), spec("other"))
    pids = [int(shown(server, name)[0]) for name in ("fixture_show", "other_show")]
    server.process.terminate()
    assert server.process.wait(60) == 0
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("mode", ["auto", "legacy", "sse"])
def test_the_server_ends_at_once_whoever_is_connected(start: Any, tmp_path: Path, mode: str) -> None:
    server = start()
    update(server, spec())
    mark = tmp_path / "mark"

    async def work(session: Any) -> None:
        heard = asyncio.Event()

        async def report(progress: float, total: float | None, message: str | None) -> None:
            heard.set()

        arguments = {"seconds": 60, "mark": str(mark)}
        tool = "wait" if mode == "sse" else "fixture_wait"
        running = asyncio.create_task(session.call_tool(tool, arguments, progress_callback=report))
        await heard.wait()
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        running.cancel()
        await asyncio.wait({running})

    # How the clients' library takes the loss of its server is its own affair.
    with contextlib.suppress(Exception):
        over_sse(server, work) if mode == "sse" else over_http(server, work, mode)
    assert server.process.returncode == 0

"""The sandbox as an MCP server, seen by the protocol's own client."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import BlobResourceContents, TextResourceContents

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JSON = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
Use = Callable[[McpClient], Awaitable[Any]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client takes a server that is silent for ten seconds for one of an older era."""
    monkeypatch.setattr("mcp.client.session.DISCOVER_TIMEOUT_SECONDS", 120.0)


def address(server: Any) -> str:
    return f"http://127.0.0.1:{server.port}/mcp"


def use(server: Any, work: Use, mode: str = "auto") -> Any:
    """What ``work`` returns of a connected client; mode "legacy" speaks as clients of 2025 do."""

    async def connected() -> Any:
        async with McpClient(address(server), mode=mode) as client:
            return await work(client)

    return asyncio.run(connected())


def call(server: Any, tool: str, **arguments: Any) -> Any:
    return use(server, lambda client: client.call_tool(tool, arguments))


def text(result: Any) -> str:
    assert not result.is_error, result
    (content,) = result.content
    assert isinstance(content.text, str)
    return content.text


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_clients_of_both_eras_find_the_tools_and_use_them(client: Any, mode: str, version: str) -> None:
    async def work(mcp: McpClient) -> Any:
        listed = await mcp.list_tools()
        return mcp.protocol_version, listed.tools, await mcp.call_tool("shell", {"command": "echo hi; false"})

    spoken, tools, result = use(client, work, mode)
    assert spoken == version
    names = [tool.name for tool in tools]
    assert {"shell", "read", "write", "edit"} <= set(names)
    assert all(tool.description and tool.input_schema["type"] == "object" for tool in tools)
    assert {tool.name for tool in tools if tool.annotations.read_only_hint} >= {"read"}
    assert text(result).startswith("hi\n[The command completed with exit code 1.]")
    assert result.structured_content["exit_code"] == 1
    assert result.structured_content["output"] == "hi"
    assert not result.structured_content["running"]


def test_a_raw_client_of_the_first_streamable_version_is_served(client: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    about = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    connection.request("POST", "/mcp", json.dumps(request), accept)
    response = connection.getresponse()
    body = response.read().decode()
    session = response.getheader("mcp-session-id")
    assert response.status == 200
    assert '"protocolVersion":"2025-03-26"' in body
    assert session
    connection.request("DELETE", "/mcp", None, {**accept, "Mcp-Session-Id": session})
    response = connection.getresponse()
    response.read()
    assert response.status == 200
    connection.close()


def test_the_shell_keeps_its_state_and_other_sessions_have_their_own(client: Any) -> None:
    call(client, "shell", command="cd /tmp; export COLOUR=red")
    assert text(call(client, "shell", command='echo "$PWD $COLOUR"')).startswith("/tmp red\n")
    other = call(client, "shell", command='echo "$PWD [$COLOUR]"', session="side")
    assert text(other).startswith(f"{client.folder} []\n")
    assert other.structured_content["session"] == "side"
    call(client, "shell", command=f"cd {client.folder}")


def test_a_running_command_can_be_read_on_fed_and_interrupted(client: Any) -> None:
    # One program: a Ctrl-C between two of the shell's own would be lost.
    talk = "sh -c 'read name; echo hello $name; sleep 60'"
    result = call(client, "shell", command=talk, timeout=0.3)
    assert result.structured_content["running"]
    assert result.structured_content["exit_code"] is None
    said = text(call(client, "shell", command="Ann", is_input=True, timeout=0.2))
    while "hello Ann" not in said:
        result = call(client, "shell", command="", timeout=0.2)
        assert result.structured_content["running"]
        said += text(result)
    result = call(client, "shell", command="", timeout=0.2)
    assert result.structured_content["running"]
    result = call(client, "shell", command="C-c", is_input=True, blocking=True)
    assert result.structured_content["exit_code"] == 130


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_cancelled_command_gets_ctrl_c(client: Any, mode: str) -> None:
    mark = client.folder / f"interrupted-{mode}"
    command = f"trap 'touch {mark}; exit 130' INT; echo began > {mark}.began; sleep 60"

    async def work(mcp: McpClient) -> None:
        running = asyncio.create_task(mcp.call_tool("shell", {"command": f"({command})", "session": mode}))
        while not Path(f"{mark}.began").exists():
            await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # The next command waits for its turn, and finds the shell free.
        result = await mcp.call_tool("shell", {"command": "echo free", "session": mode})
        while not result.structured_content["output"].startswith("free"):
            result = await mcp.call_tool("shell", {"command": "echo free", "session": mode})

    use(client, work, mode)
    assert mark.exists()


def test_cancelling_a_wait_for_an_older_command_leaves_the_command_alone(client: Any) -> None:
    async def work(mcp: McpClient) -> Any:
        wait = f"until test -e {client.folder}/go; do sleep 0.05; done; echo over"
        begun = {"command": wait, "session": "older", "timeout": 0.2}
        assert (await mcp.call_tool("shell", begun)).structured_content["running"]
        reading = asyncio.create_task(mcp.call_tool("shell", {"command": "", "session": "older"}))
        await asyncio.sleep(0.3)
        reading.cancel()
        # It has its turn only after the cancelled one is over.
        again = {"command": "", "session": "older", "timeout": 0.2}
        assert (await mcp.call_tool("shell", again)).structured_content["running"]
        (client.folder / "go").touch()
        return await mcp.call_tool("shell", {"command": "", "session": "older", "blocking": True})

    assert text(use(client, work)).startswith("over\n")


def test_a_client_that_asks_for_progress_hears_of_it(start: Any) -> None:
    heard: list[tuple[float, str | None]] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))
        (server.folder / "heard").touch()

    server = start()

    async def work(mcp: McpClient) -> Any:
        command = {"command": "until test -e heard; do sleep 0.05; done", "blocking": True}
        return await mcp.call_tool("shell", command, progress_callback=report)

    use(server, work)
    passed, message = heard[0]
    assert passed >= 2
    assert message == f"The command is running for {passed:g} s."


def test_files_are_written_read_and_edited(client: Any) -> None:
    path = client.folder / "poem.txt"
    assert text(call(client, "write", path=str(path), content="one\ntwo\nthree\n")) == f"Wrote {path}."
    assert path.read_text() == "one\ntwo\nthree\n"
    assert text(call(client, "read", path=str(path))) == "one\ntwo\nthree\n"
    part = text(call(client, "read", path=str(path), offset=2, limit=1))
    assert part == "two\n[The file goes on; read more with offset 3.]"


def test_files_are_edited_and_edits_taken_back(client: Any) -> None:
    path = str(client.folder / "code.py")
    assert "created" in text(call(client, "edit", command="create", path=path, file_text="a = 1\nb = 2\n"))
    changed = call(client, "edit", command="str_replace", path=path, old_str="a = 1", new_str="a = 3")
    assert "a = 3" in text(changed)
    wrong = call(client, "edit", command="str_replace", path=path, old_str="nowhere", new_str="x")
    assert wrong.is_error
    assert "did not appear verbatim" in wrong.content[0].text
    assert "     2\tb = 2" in text(call(client, "edit", command="view", path=path, view_range=[1, 2]))
    call(client, "edit", command="undo_edit", path=path)
    assert Path(path).read_text() == "a = 1\nb = 2\n"


def test_files_are_listed_and_found_by_name_and_content(client: Any) -> None:
    folder = client.folder / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text("import os\n\nprint(os.getcwd())\n")
    (folder / ".hidden.py").write_text("import os\n")
    (folder / "link").symlink_to("src")
    listed = text(call(client, "list", path=str(folder))).splitlines()
    assert sorted(listed) == [".hidden.py (10 bytes)", "link -> src", "src/"]
    assert "src/main.py (30 bytes)" in text(call(client, "list", path=str(folder), recursive=True))
    assert text(call(client, "glob", pattern="**/*.py", path=str(folder))) == "src/main.py"
    assert (
        text(call(client, "glob", pattern="*.rs", path=str(folder)))
        == "[No file or folder fits the pattern.]"
    )
    found = text(call(client, "grep", pattern="^import o.$", path=str(folder)))
    assert found == "src/main.py:1:import os"
    found = text(call(client, "grep", pattern="GETCWD", path=str(folder), ignore_case=True, context=1))
    assert found.startswith("src/main.py-2-\nsrc/main.py:3:print(os.getcwd())")
    assert text(call(client, "grep", pattern="nothing", path=str(folder))) == "[Nothing matches.]"
    assert call(client, "grep", pattern="(", path=str(folder)).is_error
    for tool in ("list", "glob", "grep"):
        arguments = {} if tool == "list" else {"pattern": "x"}
        absent = call(client, tool, path="/nowhere", **arguments)
        assert absent.is_error
        assert "There is no such file or folder" in absent.content[0].text


def test_cells_run_in_python_and_a_cancelled_one_is_interrupted(client: Any) -> None:
    async def work(mcp: McpClient) -> Any:
        if "python" not in {tool.name for tool in (await mcp.list_tools()).tools}:
            pytest.skip("missing on this machine: ipykernel and jupyter_client")
        assert text(await mcp.call_tool("python", {"code": "x = 6\nx * 7"})).strip() == "42"
        cell = "import time\nopen('begun', 'w').close()\ntry:\n    time.sleep(60)\nfinally:\n    y = 1"
        running = asyncio.create_task(mcp.call_tool("python", {"code": cell}))
        while not (client.folder / "begun").exists():
            await asyncio.sleep(0.02)
        running.cancel()
        return await mcp.call_tool("python", {"code": "x + y"})

    assert text(use(client, work)).strip() == "7"


def test_a_picture_is_shown_as_a_picture(client: Any) -> None:
    (client.folder / "dot.png").write_bytes(PIXEL)
    result = call(client, "read", path=str(client.folder / "dot.png"))
    (content,) = result.content
    assert content.mime_type == "image/png"
    assert base64.b64decode(content.data) == PIXEL
    assert "no such file" in call(client, "read", path="/nowhere.png").content[0].text


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("read", {"path": "/nowhere/at-all"}, "File not found: /nowhere/at-all"),
        ("read", {"path": 3}, "arguments.path must be of type string"),
        ("read", {}, "arguments.path is required"),
        ("read", {"path": "/etc/passwd", "lines": 3}, "arguments.lines is not known here"),
        ("shell", {"command": "true", "timeout": 0}, "arguments.timeout must be more than 0"),
        ("shell", {"command": "true", "session": "no such/name"}, "is no name for a session"),
        ("shell", {"command": "echo \0"}, "NUL"),
        ("shell", {"command": "echo 1\necho 2"}, "Cannot execute multiple commands at once"),
    ],
)
def test_a_mistake_is_the_tools_answer_for_the_model_to_read(
    client: Any, tool: str, arguments: dict[str, Any], said: str
) -> None:
    result = use(client, lambda mcp: mcp.call_tool(tool, arguments))
    assert result.is_error
    assert said in result.content[0].text


def test_files_are_resources(client: Any) -> None:
    (client.folder / "a note.md").write_text("grüße\n")
    (client.folder / "dot.gif").write_bytes(b"GIF\0\xff")

    async def work(mcp: McpClient) -> None:
        listed = {each.name: each for each in (await mcp.list_resources()).resources}
        assert listed["a note.md"].uri == (client.folder / "a note.md").as_uri()
        assert listed["a note.md"].size == 8
        (template,) = (await mcp.list_resource_templates()).resource_templates
        assert template.uri_template == "file://{+path}"
        (note,) = (await mcp.read_resource(listed["a note.md"].uri)).contents
        assert isinstance(note, TextResourceContents)
        assert note.text == "grüße\n"
        (dot,) = (await mcp.read_resource(listed["dot.gif"].uri)).contents
        assert isinstance(dot, BlobResourceContents)
        assert (dot.mime_type, base64.b64decode(dot.blob)) == ("image/gif", b"GIF\0\xff")
        refused = ("http://elsewhere/", "file:relative", "file:///nowhere", "file:///tmp", "file:///a%00")
        for uri in (*refused, "file:///dev/zero", "file://elsewhere/etc/passwd"):
            with pytest.raises(MCPError):
                await mcp.read_resource(uri)

    use(client, work)


def test_an_unknown_tool_is_a_protocol_error(client: Any) -> None:
    async def work(mcp: McpClient) -> None:
        with pytest.raises(MCPError, match="Unknown tool: frobnicate"):
            await mcp.call_tool("frobnicate", {})

    use(client, work)


def test_alive_answers_while_the_library_is_loaded(start: Any) -> None:
    server = start()

    async def work() -> int:
        answers = 0
        async with httpx2.AsyncClient(timeout=60) as http_client:
            await http_client.get(f"http://127.0.0.1:{server.port}/alive")
            first = asyncio.create_task(http_client.post(address(server), json={}))
            while not first.done():
                await http_client.get(f"http://127.0.0.1:{server.port}/alive")
                answers += not first.done()
        return answers

    # Loading takes about half a second, which /alive must not wait for.
    assert asyncio.run(work()) >= 1


def test_with_a_key_only_its_holder_is_served(start: Any) -> None:
    server = start(auth=True, environment={"SESSION_API_KEY": "secret"})

    async def status(**headers: str) -> int:
        async with httpx2.AsyncClient(timeout=60) as http_client:
            return (await http_client.post(address(server), json={}, headers=headers)).status_code

    assert asyncio.run(status()) == 403
    assert asyncio.run(status(Authorization="Bearer wrong")) == 403
    assert asyncio.run(status(**{"X-Session-API-Key": "wrong"})) == 403
    for headers in ({"Authorization": "Bearer secret"}, {"X-Session-API-Key": "secret"}):

        async def work(headers: dict[str, str] = headers) -> Any:
            async with httpx2.AsyncClient(headers=headers, timeout=60) as http_client:
                transport = streamable_http_client(address(server), http_client=http_client)
                async with McpClient(transport) as mcp:
                    return await mcp.call_tool("shell", {"command": "env"})

        assert "secret" not in text(asyncio.run(work()))


@pytest.mark.parametrize(
    ("origin", "host", "served"),
    [
        (None, "sandbox.internal:60000", True),
        ("http://127.0.0.1:60000", "127.0.0.1:60000", True),
        ("http://localhost:60000", "localhost:60000", True),
        ("http://[::1]:60000", "[::1]:60000", True),
        ("http://evil.example", "127.0.0.1:60000", False),
        ("http://localhost:3000", "localhost:60000", False),
        # A page whose name was made to mean this server's address.
        ("http://rebound.example:60000", "rebound.example:60000", False),
        ("null", "127.0.0.1:60000", False),
    ],
)
def test_without_a_key_pages_in_a_browser_are_kept_out(
    client: Any, origin: str | None, host: str, served: bool
) -> None:
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    for path in ("/mcp", "/mcp/messages/", "/update_mcp_server", "/execute_action"):
        status, _ = client.ask("POST", path, b"[]", headers) if path[1] != "m" else raw(client, path, headers)
        assert (status != 403) is served


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/messages/?session_id=0", "/mcp/nothing"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b"\xff", b"3", b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":[]}'],
    ids=["empty", "cut", "deep", "no text", "number", "wrong"],
)
def test_nonsense_is_refused_and_the_server_goes_on(client: Any, method: str, path: str, body: bytes) -> None:
    for headers in (
        JSON,
        {},
        {**JSON, "MCP-Protocol-Version": "2026-07-28"},
        {**JSON, "Mcp-Session-Id": "x"},
    ):
        client.connection.request(method, path, body, headers)
        response = client.connection.getresponse()
        response.read()
        assert 400 <= response.status < 500


def raw(client: Any, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """An answer that need not be JSON."""
    client.connection.request("POST", path, b"{}", headers)
    response = client.connection.getresponse()
    return response.status, response.read()

"""On any base a page is opened, clicked, typed into, photographed, a cell draws, VS Code edits, MCP answers.

So they do with either flavour of the bundle, as it is and locked down.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from playwright.async_api import async_playwright
from tests.integration.bases import BASES, Base
from tests.integration.conftest import program
from tests.integration.test_base_matrix import MODES, files_in, started, variables_in

from graftbox.bundle.flavor import FLAVORS
from graftbox.sandbox.client import KEY_HEADER, Client
from graftbox.sandbox.forward import forwarding

PAGE = """<!DOCTYPE html><title>Show</title>
<body style="font: 40px sans-serif; margin: 40px">
<h1>Orders</h1>
<input id="name" aria-label="name" style="font: inherit">
<button style="font: inherit" onclick="
  document.querySelector('p').textContent = 'Welcome ' + document.querySelector('#name').value">Greet</button>
<p>Nobody yet</p>
"""
# A picture as plotting libraries make it: written by hand, since no base has one.
DRAWING = """
import struct, zlib
from IPython.display import Image, display

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

rows = b"".join(b"\\0" + bytes(255 * (abs(x - y) < 2) for x in range(64)) for y in range(64))
head = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
png = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
display(Image(data=b"\\x89PNG\\r\\n\\x1a\\n" + png))
"""


OWN = ("/openhands/lib/python3.13/", "/openhands/libexec/python3.13", "/openhands/code/")
"""Where the files of the server's Python are, in either flavour."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("base", BASES)
def test_everything_works_on_any_base_with_both_flavours(
    base: str, mode: str, tmp_path: Path, dockerd: object
) -> None:
    """Two sandboxes beside each other: one waits less than two."""
    with ExitStack() as stack:
        sandboxes = {}
        for flavor in FLAVORS:
            options = ("--engine", "docker", "--flavor", flavor, *MODES[mode].split())
            sandboxes[flavor] = stack.enter_context(started(base, *options))
        with ThreadPoolExecutor(len(sandboxes)) as pool:
            shown = [
                pool.submit(show, BASES[base], sandboxes[flavor], tmp_path / flavor) for flavor in FLAVORS
            ]
        for flavor, done in zip(FLAVORS, shown, strict=True):
            if error := done.exception():
                error.add_note(f"in the sandbox of the flavour {flavor}")
                raise error


def show(base: Base, facts: dict[str, str], folder: Path) -> None:
    folder.mkdir()
    with Client(facts["url"], facts["key"]) as client:
        show_page(client, folder)
        show_drawing(client)
        show_tools(facts)
        show_editor(client, facts, base)


def show_page(client: Client, tmp_path: Path) -> None:
    with site(client, PAGE) as address:
        seen = browse(client, f'goto("{address}")')
        assert "Nobody yet" in text_in(seen["extras"]["screenshot"], tmp_path)
        field, button = bid(seen, "textbox 'name'"), bid(seen, "button 'Greet'")
        browse(client, f'fill("{field}", "Ada")')
        seen = browse(client, f'click("{button}")')
        assert "Welcome Ada" in seen["content"]
        assert "Welcome Ada" in text_in(seen["extras"]["screenshot"], tmp_path)


def show_drawing(client: Client) -> None:
    answer = act(client, "run_ipython", code=DRAWING)
    (url,) = answer["extras"]["image_urls"]
    assert picture(url).startswith(b"\x89PNG\r\n\x1a\n")


def show_tools(facts: dict[str, str]) -> None:
    """As a model's client calls them, by MCP."""
    asyncio.run(call_tools(facts))


async def call_tools(facts: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {facts['key']}"}
    async with (
        reachable(facts["url"]) as address,
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http_client,
        McpClient(streamable_http_client(f"{address}/mcp", http_client=http_client)) as tools,
    ):
        for tool, arguments in (("shell", {"command": "echo $((6 * 7))"}), ("python", {"code": "6 * 7"})):
            answer = await tools.call_tool(tool, arguments)
            assert "42" in getattr(answer.content[0], "text", ""), answer
        answer = await tools.call_tool("browse", {"actions": "noop(0)"})
        assert answer.content[-1].type == "image", answer


def show_editor(client: Client, facts: dict[str, str], base: Base) -> None:
    """From outside, as a person does it: in a browser, by VS Code's address."""
    client.write("/tmp/site/notes.txt", "Opened in the editor\n")
    asyncio.run(edit(client, facts, base))


def check_others(client: Client, base: Base, pid: str) -> None:
    """A user's process has the base's variables, but for TERM, and nothing of the server's Python."""
    seen = variables_in(client, f"/proc/{pid}/environ")
    given = {name: value for name, value in base.variables.items() if name != "TERM"}
    assert {name: seen.get(name) for name in given} == given
    assert not [name for name in seen if name.startswith(("_PYI_", "_MEI", "GRAFTBOX_"))]
    assert ("LD_LIBRARY_PATH" in seen) == ("LD_LIBRARY_PATH" in base.variables)
    code = f"print(open('/proc/{pid}/maps').read())"
    mapped = files_in(client.run(f'/openhands/bin/oh-python -c "{code}"').output)
    assert mapped
    assert not [path for path in mapped if path.startswith(OWN)]


async def edit(client: Client, facts: dict[str, str], base: Base) -> None:
    async with reachable(facts["url"]) as address, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program("chromium-headless-shell"))
        page = await browser.new_page()
        page.set_default_timeout(180_000)
        token = await asyncio.to_thread(vscode_token, address, facts["key"])
        await page.goto(f"{address}/v1/proxy/vscode/?tkn={token}&folder=/tmp/site")
        await page.wait_for_selector(".monaco-workbench .explorer-folders-view")
        await page.get_by_text("notes.txt").first.dblclick()
        await page.wait_for_selector(".view-line:has-text('Opened in the editor')")
        await page.keyboard.press("Control+`")
        terminal = ".terminal-wrapper.active .xterm-screen"
        await page.wait_for_selector(terminal)
        # What is typed while the terminal is still being opened may end up elsewhere.
        for _ in range(60):
            await page.click(terminal)
            await page.keyboard.type("echo $((6 * 7)) $$ ${VSCODE_IPC_HOOK_CLI-own} > /tmp/site/typed\n")
            await page.wait_for_timeout(500)
            typed = await asyncio.to_thread(output, client, "read -r typed < /tmp/site/typed; echo $typed")
            answer, shell, profile = [*typed.split(), "", "", ""][:3]
            if (answer, profile) == ("42", "own"):
                break
            if answer == "42":
                # VS Code has waited 20 seconds for its profiles and taken another shell than the default.
                await asyncio.to_thread(client.run, ": > /tmp/site/typed")
                await page.keyboard.press("Control+Shift+`")
        else:
            pytest.fail(f"the terminal ran nothing of what was typed; the last answer was {typed!r}")
        await asyncio.to_thread(check_others, client, base, shell)
        await browser.close()


def output(client: Client, command: str) -> str:
    return client.run(command).output


def vscode_token(address: str, key: str) -> str:
    request = urllib.request.Request(f"{address}/vscode/connection_token", headers={KEY_HEADER: key})
    with urllib.request.urlopen(request, timeout=60) as answer:
        token = json.loads(answer.read())["token"]
    assert isinstance(token, str)
    return token


@asynccontextmanager
async def reachable(url: str) -> AsyncIterator[str]:
    """The address of a sandbox's server for a browser."""
    if not url.startswith("unix://"):
        yield url
        return
    async with forwarding(Path(url.removeprefix("unix://")), 0) as port:
        yield f"http://127.0.0.1:{port}"


def act(client: Client, kind: str, **args: Any) -> dict[str, Any]:
    return client.execute({"action": kind, "args": args, "timeout": 60}, timeout=90)


def browse(client: Client, actions: str) -> dict[str, Any]:
    """What is seen after actions that may be done twice: half a second is not enough on a busy machine."""
    for _ in range(20):
        answer = act(client, "browse_interactive", browser_actions=actions, return_axtree=True)
        if "TimeoutError" not in answer.get("extras", {}).get("last_browser_action_error", ""):
            break
    assert answer["observation"] == "browse", answer
    assert not answer["extras"]["error"], answer["extras"]["last_browser_action_error"]
    return answer


def bid(seen: dict[str, Any], what: str) -> str:
    """The id of an element by its line in the accessibility tree."""
    found = re.search(rf"\[(\w+)\] {re.escape(what)}", seen["content"])
    assert found, seen["content"]
    return found[1]


def picture(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


def text_in(url: str, folder: Path) -> str:
    """What a reader sees in a picture."""
    (folder / "seen.png").write_bytes(picture(url))
    command = [program("tesseract", "tesseract-ocr"), str(folder / "seen.png"), "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return " ".join(done.stdout.split())


@contextmanager
def site(client: Client, page: str) -> Iterator[str]:
    """A web server inside the sandbox, on its loopback interface."""
    client.write("/tmp/site/index.html", page)
    server = "import http.server as s; h = s.HTTPServer(('127.0.0.1', 0), s.SimpleHTTPRequestHandler); "
    code = f"{server}print(h.server_port, flush=True); h.serve_forever()"
    client.run("cd /tmp/site")
    client.run(f": > port; /openhands/bin/oh-python -c {json.dumps(code)} > port 2> log &")
    port = client.run("until read -r port < port; do :; done; echo $port", timeout=60).output
    assert port.isdigit(), port
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        client.run("kill %1; cd /")

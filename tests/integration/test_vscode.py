"""The bundle's VS Code behind the server: in bases that have nothing for it, and for clients of OpenHands."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from tests.integration.bases import HOSTILE
from tests.integration.conftest import missing, program
from tests.integration.test_base_matrix import LOCKED_DOWN, sandbox
from tests.integration.test_openhands_client import HERE, python, runtime_image

from graftbox.sandbox.client import Client

__all__ = ["python", "runtime_image"]
FIND = "for p in /proc/[0-9]*; do [[ $p/exe -ef /openhands/libexec/node ]] && echo ${p#/proc/}; done; true"
"""Without any program: the processes of VS Code."""


@contextmanager
def vscode(base: str, *options: str) -> Iterator[Client]:
    with sandbox(base, "--engine", "embedded", *LOCKED_DOWN.split(), *options) as client:
        if not get(client, "/v1/capabilities").json()["features"]["vscode"]["works"]:
            missing("the component vscode in this bundle")
        yield client


def get(client: Client, path: str, method: str = "GET") -> Any:
    return client._request(method, path, timeout=120)


def profile(client: Client, name: str) -> str:
    """The words of a terminal profile, for a shell."""
    words = client.run(f"{READ} terminal.integrated.profiles.linux {name}").output
    assert words.startswith("/openhands/"), words
    return words


READ = (
    "/openhands/bin/oh-python -c '"
    "import glob, json, shlex, sys; "
    'path, = glob.glob("/tmp/.graftbox-*/u*/vscode/data/Machine/settings.json"); '
    "found = json.load(open(path))[sys.argv[1]][sys.argv[2]]; "
    'print(shlex.join([found["path"], *found.get("args", ())]))'
    "'"
)


@pytest.mark.parametrize("base", ["scratch", "hostile"])
def test_vscode_runs_locked_down_in_any_base(base: str) -> None:
    with vscode(base) as client:
        assert get(client, "/vscode/connection_token").json()["token"]
        page = get(client, "/v1/proxy/vscode/").text
        assert "workbench" in page
        script = re.search(r'src="\.?/?([^"]+\.js)"', page)
        assert script
        assert "function" in get(client, f"/v1/proxy/vscode/{script[1]}").text
        check_terminals(base, client)
        check_kill(client)
        assert get(client, "/v1/plugins/vscode/stop", "POST").json()["state"] == "stopped"
        assert client.run(FIND).output == ""


def check_terminals(base: str, client: Client) -> None:
    """The default profile's environment is the container's; the agent's session is there to attach to."""
    polluted = "VSCODE_IPC_HOOK_CLI=x BROWSER=x GIT_ASKPASS=x TERM=xterm-256color"
    client.run(
        f"{polluted} {profile(client, 'bash')} <<< 'printf %s. \"$TERM\" >/tmp/term; export -p >/tmp/seen'"
    )
    seen = client.read("/tmp/seen")
    assert not re.search("VSCODE|BROWSER|GIT_ASKPASS|GRAFTBOX|SESSION_API", seen), seen
    assert client.read("/tmp/term") == "xterm-256color."
    if base == "hostile":
        assert all(f" {name}=" in seen for name in HOSTILE)
    agent = profile(client, "agent")
    assert agent.startswith("/openhands/bin/oh-attach --socket ")
    attached = client.run(f"{agent} nobody 2>&1")
    assert "There is no session nobody" in attached.output


def check_kill(client: Client) -> None:
    """Its processes are killed all at once; the next request works."""
    starts = get(client, "/v1/plugins/vscode").json()["starts"]
    assert client.run(f"kill -9 $({FIND})").exit_code == 0
    assert "workbench" in get(client, "/v1/proxy/vscode/").text
    assert get(client, "/v1/plugins/vscode").json()["starts"] == starts + 1


SERVE = (
    "import http.server as s; h = s.HTTPServer(('127.0.0.1', 0), s.SimpleHTTPRequestHandler); "
    "print(h.server_port, flush=True); h.serve_forever()"
)


def forwarded(page: Page, port: str) -> Locator:
    """The port's row in the view, once it is added; what is typed while the view is made anew may be lost."""
    box = page.locator(".part.panel .monaco-inputbox input:visible").first
    row = page.locator(f".part.panel .monaco-list-row[aria-label*='/proxy/{port}/']").first
    for _ in range(10):
        with suppress(PlaywrightTimeoutError):
            if not box.is_visible():
                page.get_by_role("button", name="Forward a Port").first.click(timeout=10_000)
            box.fill(port, timeout=10_000)
            box.press("Enter", timeout=10_000)
            row.wait_for(timeout=10_000)
            break
    return row


def test_the_view_of_ports_opens_what_the_agent_has_started() -> None:
    with sandbox("musl", "--engine", "embedded") as client, sync_playwright() as playwright:
        if not get(client, "/v1/capabilities").json()["features"]["vscode"]["works"]:
            missing("the component vscode in this bundle")
        client.write("/tmp/site/index.html", "<h1>What the agent made</h1>")
        client.run(f"cd /tmp/site; /openhands/bin/oh-python -c {json.dumps(SERVE)} > port 2> log &")
        port = client.run("until read -r port < port; do :; done; echo $port", timeout=60).output
        get(client, "/vscode/connection_token")
        link = get(client, "/v1/plugins/vscode").json()["link"]
        browser = playwright.chromium.launch(
            executable_path=program("chromium-headless-shell"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(client.url.rstrip("/") + link)
        page.locator(".statusbar-item a[aria-label*='ort']").first.click()
        row = forwarded(page, port)
        found = re.search(r"http://\S+/v1/proxy/vscode/proxy/\d+/", row.get_attribute("aria-label") or "")
        assert found
        page.goto(found[0])
        assert page.inner_text("h1") == "What the agent made"
        browser.close()


def test_openhands_own_runtime_opens_vscode(python: str, runtime_image: str) -> None:
    words = [python, str(HERE / "vscode.py"), "docker", runtime_image, "openhands"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"token"')]
    assert lines, done.stderr[-3000:]
    if '"token": ""' in lines[0]:
        missing("the component vscode in this bundle")
    assert "workbench" in lines[0]

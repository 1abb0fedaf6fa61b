"""A real Chromium behind a real server, and a small site for it to visit."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graftbox.server.browser import chromium
from graftbox.server.environment import Environment

SECONDS = 60
PAGES: dict[str, str] = {
    "/": "<title>Start</title><body style='background:#f00'><h1>Hello</h1><a href='/other'>there</a>",
    "/other": "<title>Other</title><p>Another page.",
    "/tall": "<title>Tall</title><body style='margin:0'><div style='height:5000px;background:#0f0'>",
    "/alert": "<title>Alert</title><script>alert('one'); confirm('two'); prompt('three')</script><p>after",
    "/form": "<title>Form</title><input id=name><button onclick=\"out.textContent='Hello '+"
    "document.querySelector('#name').value\">Go</button><p id=out></p>",
    "/many": "<title>Many</title><script>for (let n = 0; n < 100; n++) open('/other')</script>",
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that was killed hangs up in the middle; that is not the site's business."""


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/endless":
            self._download()
            return
        if self.path == "/never":
            time.sleep(SECONDS)
            return
        body = PAGES.get(self.path, "").encode()
        self.send_response(200 if body else 404)
        kind = "application/octet-stream" if self.path == "/file" else "text/html; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _download(self) -> None:
        self.send_response(200)
        self.send_header("Content-Disposition", "attachment; filename=endless.bin")
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The address of a small site, without a slash at the end."""
    server = _Server(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Tester:
    """A server with a browser; each request is a connection of its own, so that several may wait."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.port: int = client.port
        self.folder: Path = client.folder

    def get(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, f"/v1/browser{path}", data)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, answer = self.get(method, path, body)
        return status, json.loads(answer) if answer else None

    def open(self, url: str | None = None) -> str:
        """The id of a new page."""
        status, page = self.ask("POST", "/pages", {} if url is None else {"url": url})
        assert status == 201, page
        found: str = page["id"]
        return found

    def evaluate(self, page: str, expression: str) -> Any:
        status, answer = self.ask("POST", f"/pages/{page}/evaluate", {"expression": expression})
        assert status == 200, answer
        assert answer["error"] is None, answer
        return answer["value"]

    @property
    def pid(self) -> int:
        pid = self.ask("GET", "")[1]["pid"]
        assert isinstance(pid, int)
        return pid

    @property
    def urls(self) -> list[str]:
        return sorted(page["url"] for page in self.ask("GET", "")[1]["pages"])


def living(group: int) -> dict[int, str]:
    """The processes of a group that have not ended, with their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
            if words[0] not in "ZX" and int(words[2]) == group:
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def zombies(server: int) -> list[str]:
    """The children of a server that have ended and that it has not asked for."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue
        if rest.split()[0] == "Z" and int(rest.split()[1]) == server:
            found.append(f"{name})")
    return found


def leave_something(pid: int) -> list[Path]:
    """Files in the folders of this Chromium that it knows nothing of."""
    folder = Path(f"/proc/{pid}/cwd").readlink()
    files = [folder / "profile" / "left", folder / "tmp" / "left"]
    for path in files:
        path.touch()
    return files


@pytest.fixture(scope="module")
def launch(start: Callable[..., Any]) -> Callable[..., Tester]:
    """Starts servers with a browser: ``launch(*arguments, environment=…)``."""
    entries = tuple(name + b"=" + value for name, value in os.environb.items())
    if chromium.find(Environment(entries)) is None:
        what = "missing on this machine: Chromium (package chromium-headless-shell)"
        if os.environ.get("GRAFTBOX_TEST_STRICT") == "1":
            pytest.fail(what)
        pytest.skip(what)

    def go(*arguments: str, **more: Any) -> Tester:
        return Tester(start(*arguments, **more))

    return go


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Tester]) -> Tester:
    """A server with a browser, shared by the tests of one module."""
    return launch()

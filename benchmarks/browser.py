"""The browser: how soon the first page is seen, and how long each further one takes.

A sample is an action or request, from its sending to having the picture. The pages come from this machine.
python -m benchmarks.browser measures these alone.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import Figure, table
from benchmarks.server import UnixConnection, running
from graftbox.bundle import build, tree
from graftbox.store import Store

STARTS = 7
PAGES = 30
_ROW = "<tr><td>{0}</td><td><a href='#{0}'>Article {0}</a></td><td><button>Buy</button></td></tr>"
_PAGE = (
    "<!doctype html><title>Shop</title><style>td {{ padding: 4px }} tr:nth-child(odd) {{ background: #eef }}"
    "</style><h1>Shop NUMBER</h1><table>{}</table>"
).format("".join(_ROW.format(number) for number in range(30)))

Browse = Callable[[UnixConnection, str], None]


def figures(unpacked: Path) -> list[Figure]:
    """``unpacked`` holds the tree ``openhands/`` with the component browser."""
    with _site() as site:
        return [
            Figure(
                "first `browse` with its picture, browser not started", "s", _first(unpacked, site, _act), 1.2
            ),
            Figure("`browse` of a further page", "ms", _further(unpacked, site, _act), 150),
            Figure("first page and picture over `/v1/browser`", "s", _first(unpacked, site, _request), 1.2),
            Figure("a further page and picture", "ms", _further(unpacked, site, _request), 150),
        ]


@contextlib.contextmanager
def _site() -> Iterator[str]:
    """The address of a site with a page for each number."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with TemporaryDirectory() as folder:
        for number in range(PAGES + 2):
            Path(folder, f"{number}.html").write_text(_PAGE.replace("NUMBER", str(number)))
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


def _ask(connection: UnixConnection, method: str, path: str, body: object = None) -> bytes:
    connection.request(method, path, None if body is None else json.dumps(body))
    response = connection.getresponse()
    data = response.read()
    assert response.status in (200, 201), data
    return data


def _act(connection: UnixConnection, url: str) -> None:
    action = {"action": {"action": "browse", "args": {"url": url}, "timeout": 60}}
    answer: dict[str, Any] = json.loads(_ask(connection, "POST", "/execute_action", action))
    assert answer["extras"]["screenshot"].startswith("data:image/png;base64,"), answer
    assert not answer["extras"]["error"], answer


def _request(connection: UnixConnection, url: str) -> None:
    pages = json.loads(_ask(connection, "GET", "/v1/browser"))["pages"]
    if pages:
        page = pages[0]["id"]
        _ask(connection, "POST", f"/v1/browser/pages/{page}/goto", {"url": url})
    else:
        page = json.loads(_ask(connection, "POST", "/v1/browser/pages", {"url": url}))["id"]
    assert _ask(connection, "GET", f"/v1/browser/pages/{page}/screenshot").startswith(b"\x89PNG")


def _first(unpacked: Path, site: str, browse: Browse) -> tuple[float, ...]:
    samples = []
    for _ in range(STARTS + 1):
        with running(unpacked) as (path, _), contextlib.closing(UnixConnection(path)) as connection:
            start = time.perf_counter()
            browse(connection, f"{site}/0.html")
            samples.append(time.perf_counter() - start)
    return tuple(samples[1:])


def _further(unpacked: Path, site: str, browse: Browse) -> tuple[float, ...]:
    """Milliseconds."""
    samples = []
    with running(unpacked) as (path, _), contextlib.closing(UnixConnection(path)) as connection:
        for number in range(PAGES + 2):
            start = time.perf_counter()
            browse(connection, f"{site}/{number}.html")
            samples.append((time.perf_counter() - start) * 1000)
    return tuple(samples[2:])


def main() -> None:
    manifest = build.current()
    assert manifest is not None, "build the bundle first"
    print(table("The browser", figures(tree.unpacked(manifest, Store()))))


if __name__ == "__main__":
    main()

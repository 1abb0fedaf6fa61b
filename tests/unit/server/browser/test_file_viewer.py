"""The file viewer, by which the browser shows pictures and PDFs of the sandbox."""

from __future__ import annotations

import asyncio
import http.client
import os
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import until

from graftbox.server.browser import viewer
from graftbox.server.identity import Identity

PICTURE = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def listening(pid: int) -> list[int]:
    """The ports of the loopback interface that a process listens on."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(link))  # noqa: PTH115 - no path, but a name such as socket:[1]
        except OSError:
            continue
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in sockets and words[1].startswith("0100007F:"):
            found.append(int(words[1].partition(":")[2], 16))
    return found


@pytest.fixture(scope="module")
def address(browser: Any) -> str:
    """Where the viewer of the module's server is."""
    until(lambda: listening(browser.client.process.pid))
    return f"localhost:{listening(browser.client.process.pid)[0]}"


def fetch(address: str, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", int(address.rpartition(":")[2]), timeout=60)
    try:
        connection.request("GET", path, headers={"Host": host or address})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_it_listens_before_the_browser_is_started(launch: Callable[..., Any]) -> None:
    fresh = launch()
    until(lambda: listening(fresh.client.process.pid))
    assert fresh.ask("GET", "")[1]["state"] == "stopped"
    address = f"localhost:{listening(fresh.client.process.pid)[0]}"
    assert fetch(address, "/") == (200, '{"status":"File viewer server is running"}')


def test_a_picture_is_shown_in_a_page(browser: Any, address: str, tmp_path: Path) -> None:
    (tmp_path / "a <b>.png").write_bytes(PICTURE)
    page = browser.open(f"http://{address}/view?path={tmp_path}/a%20%3Cb%3E.png")
    assert browser.evaluate(page, "document.title") == "File Viewer - a <b>.png"
    assert browser.evaluate(page, "document.querySelector('img').naturalWidth") == 1


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("relative.png", 400, "Path must be absolute"),
        ("/nowhere.png", 404, "File not found"),
        ("/tmp", 400, "Path is a directory"),
        ("/etc/passwd", 500, "Unsupported file extension"),
        ("/<script>", 404, "&lt;script&gt;"),
    ],
)
def test_what_it_cannot_show_it_says(address: str, path: str, status: int, text: str) -> None:
    given, body = fetch(address, f"/view?path={path}")
    assert given == status
    assert text in body


def test_a_page_under_a_foreign_name_is_denied(address: str) -> None:
    status, body = fetch(address, "/view?path=/a.png", host="evil.example")
    assert status == 403
    assert "Access Denied" in body
    assert fetch(address, "/cdp/wrong")[0] == 404
    assert fetch(address, "/view")[0] == 422


def test_a_pipe_or_a_file_of_another_user_is_told_of(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert viewer.view(str(tmp_path / "pipe.png"))[0] == 500
    assert b"Unsupported" not in viewer.view(str(tmp_path / "pipe.png"))[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work on files as another user")
def test_files_are_read_as_the_user_of_the_actions(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").chmod(0o600)
    nobody = Identity(65534, 65534, switched=True)
    answer = asyncio.run(viewer.respond(nobody, "GET", "/view", str(tmp_path / "secret.png")))
    assert answer[0] in (404, 500)


def test_a_pdf_is_drawn_by_the_bundled_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "PDFJS", tmp_path)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    status, kind, body = viewer.view(str(tmp_path / "a.pdf"))
    assert (status, kind) == (200, b"text/html; charset=utf-8")
    assert b"/pdfjs/pdf.min.mjs" in body
    assert b"JVBERi0xLjQ=" in body
    assert b"://" not in body


def test_a_pdf_without_the_script_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "PDFJS", tmp_path / "none")
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    status, _, body = viewer.view(str(tmp_path / "a.pdf"))
    assert status == 500
    assert b"component browser" in body


def test_nothing_but_the_script_is_served_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "PDFJS", tmp_path / "pdfjs")
    (tmp_path / "pdfjs/cmaps").mkdir(parents=True)
    for name in ("pdfjs/pdf.min.mjs", "pdfjs/cmaps/H.bcmap", "pdfjs/package.json", "other.mjs"):
        (tmp_path / name).write_text(name)

    def get(name: str) -> tuple[int, bytes]:
        status, kind, _ = asyncio.run(viewer.respond(Identity.own(), "GET", f"/pdfjs/{name}", None))
        return status, kind

    assert get("pdf.min.mjs") == (200, b"text/javascript")
    assert get("cmaps/H.bcmap") == (200, b"application/octet-stream")
    for name in ("package.json", "../other.mjs", "cmaps/../pdf.min.mjs", "none.mjs", "cmaps/", ""):
        assert get(name)[0] == 404, name

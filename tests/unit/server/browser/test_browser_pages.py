"""Pages over HTTP, in a real Chromium."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.unit.server.conftest import until

MEGABYTE = 1024 * 1024


def png(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and the colour of the first pixel."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    parts, offset = b"", 8
    while offset < len(data):
        (length,) = struct.unpack(">I", data[offset : offset + 4])
        if data[offset + 4 : offset + 8] == b"IDAT":
            parts += data[offset + 8 : offset + 8 + length]
        offset += 12 + length
    return width, height, zlib.decompress(parts)[1:4]


def test_a_page_is_opened_and_photographed(browser: Any, site: str) -> None:
    page = browser.open(f"{site}/")
    status, found = browser.ask("GET", f"/pages/{page}")
    assert (status, found["url"], found["title"]) == (200, f"{site}/", "Start")
    assert found in browser.ask("GET", "")[1]["pages"]
    status, picture = browser.get("GET", f"/pages/{page}/screenshot")
    assert (status, png(picture)) == (200, (1280, 720, b"\xff\x00\x00"))
    status, picture = browser.get("GET", f"/pages/{page}/screenshot?format=jpeg&quality=30")
    assert (status, picture[:3]) == (200, b"\xff\xd8\xff")
    assert browser.get("DELETE", f"/pages/{page}") == (204, b"")
    assert browser.ask("GET", f"/pages/{page}")[0] == 404


def test_a_full_page_shows_what_would_have_to_be_scrolled_to(browser: Any, site: str) -> None:
    page = browser.open(f"{site}/tall")
    status, picture = browser.get("GET", f"/pages/{page}/screenshot?full_page=true")
    assert (status, png(picture)) == (200, (1280, 5000, b"\x00\xff\x00"))
    assert browser.evaluate(page, "innerHeight") == 720


def test_a_picture_of_an_endless_page_is_cut(browser: Any) -> None:
    page = browser.open("data:text/html,<div style='height:100000000px'>")
    status, picture = browser.get("GET", f"/pages/{page}/screenshot?full_page=true")
    assert status == 200
    assert png(picture)[:2] == (1280, 16384)


def test_a_page_is_printed(browser: Any, site: str) -> None:
    page = browser.open(f"{site}/tall")
    status, document = browser.get("GET", f"/pages/{page}/pdf?landscape=true&pages=1-2")
    assert (status, document[:5]) == (200, b"%PDF-")
    status, answer = browser.ask("GET", f"/pages/{page}/pdf?pages=77")
    assert status == 400
    assert "Page range" in answer["detail"]


def test_what_there_is_to_read_comes_as_markdown(browser: Any, site: str) -> None:
    page = browser.open(
        "data:text/html,<title>T</title><style>p{}</style><script>1</script><h2>Fruits</h2>"
        f"<ul><li>apple<li><a href='{site}/pear'>pear</a></ul><p hidden>secret</p>"
        "<table><tr><th>a<th>b<tr><td>1<td>2</table>"
    )
    status, found = browser.ask("GET", f"/pages/{page}/text")
    assert (status, found["title"], found["truncated"]) == (200, "T", False)
    assert found["content"].startswith(f"## Fruits\n\n- apple\n- [pear]({site}/pear)\n\n| a | b |\n")
    text = browser.ask("GET", f"/pages/{page}/text?format=text")[1]["content"]
    assert "apple" in text
    assert "secret" not in text


def test_a_page_can_be_worked_with(browser: Any, site: str) -> None:
    page = browser.open(f"{site}/form")
    browser.evaluate(page, "document.querySelector('#name').value = 'Ada'")
    browser.evaluate(page, "document.querySelector('button').click()")
    assert browser.evaluate(page, "out.textContent") == "Hello Ada"
    assert browser.evaluate(page, "new Promise(done => setTimeout(done, 10, {n: [1]}))") == {"n": [1]}
    answer = browser.ask("POST", f"/pages/{page}/evaluate", {"expression": "nothing.there"})[1]
    assert "ReferenceError" in answer["error"]
    status, found = browser.ask("POST", f"/pages/{page}/goto", {"url": f"{site}/other"})
    assert (status, found["title"]) == (200, "Other")
    assert browser.ask("POST", f"/pages/{page}/goto", {"url": f"{site}/other#part"})[0] == 200


@pytest.mark.parametrize(
    ("url", "status", "reason"),
    [
        ("http://127.0.0.1:9/", 502, "net::ERR"),
        ("http://nobody.invalid/", 502, "net::ERR"),
        ("no address at all", 400, "http://"),
    ],
)
def test_an_address_that_leads_nowhere_is_said(browser: Any, url: str, status: int, reason: str) -> None:
    before = browser.urls
    given, answer = browser.ask("POST", "/pages", {"url": url})
    assert given == status
    assert reason in answer["detail"]
    assert url in answer["detail"]
    assert browser.urls == before


def test_what_is_not_there_or_makes_no_sense_is_refused(browser: Any) -> None:
    page = browser.open()
    assert browser.ask("GET", "/pages/nothing/screenshot")[0] == 404
    assert browser.ask("DELETE", "/pages/nothing")[0] == 404
    assert browser.ask("GET", f"/pages/{page}/screenshot?quality=50")[0] == 400
    assert browser.ask("GET", f"/pages/{page}/screenshot?format=gif")[0] == 422
    assert browser.ask("POST", f"/pages/{page}/goto", {})[0] == 422


def test_a_page_that_hangs_holds_nobody_up_and_can_be_closed(browser: Any, site: str) -> None:
    hanging, other = browser.open(f"{site}/"), browser.open(f"{site}/".replace("127.0.0.1", "localhost"))
    script = {"expression": "for (;;);", "timeout": 1}
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(browser.ask, "POST", f"/pages/{hanging}/evaluate", script)
        status, answer = waiting.result()
    assert status == 504
    assert "close it" in answer["detail"]
    assert browser.ask("GET", f"/pages/{hanging}/screenshot?timeout=0.5")[0] == 504
    assert browser.get("DELETE", f"/pages/{hanging}")[0] == 204
    assert browser.ask("GET", f"/pages/{other}")[0] == 200


def test_a_server_that_never_answers_is_waited_for_as_long_as_asked(browser: Any, site: str) -> None:
    assert browser.ask("POST", "/pages", {"url": f"{site}/never", "timeout": 0.5})[0] == 504
    assert f"{site}/never" not in browser.urls


def test_dialogs_are_answered(browser: Any, site: str) -> None:
    page = browser.open(f"{site}/alert")
    assert browser.evaluate(page, "document.body.textContent") == "after"


def test_no_more_pages_are_open_than_may_be(launch: Callable[..., Any], site: str) -> None:
    browser = launch(environment={"GRAFTBOX_MAX_PAGES": "4"})
    page = browser.open(f"{site}/many")
    until(lambda: len(browser.urls) == 4)
    status, answer = browser.ask("POST", "/pages", {})
    assert status == 429
    assert "close one" in answer["detail"]
    assert browser.evaluate(page, "document.title") == "Many"


def test_a_page_that_takes_all_memory_ends_alone(launch: Callable[..., Any], site: str) -> None:
    browser = launch(environment={"GRAFTBOX_PAGE_MEMORY_BYTES": str(400 * MEGABYTE)})
    good, greedy = browser.open(f"{site}/"), browser.open(f"{site}/".replace("127.0.0.1", "localhost"))
    hoard = "(() => {const kept = []; for (;;) kept.push(%s)})()"
    script = {"expression": hoard % "new Uint8Array(1 << 24).fill(1)"}
    assert "RangeError" in browser.ask("POST", f"/pages/{greedy}/evaluate", script)[1]["error"]
    script = {"expression": hoard % "new Array(1 << 20).fill(1.5)"}
    status, answer = browser.ask("POST", f"/pages/{greedy}/evaluate", script)
    assert status == 502
    assert "memory" in answer["detail"]
    assert browser.evaluate(good, "document.title") == "Start"
    assert browser.get("DELETE", f"/pages/{greedy}")[0] == 204
    assert browser.ask("GET", "")[1]["starts"] == 1


def test_downloads_go_to_the_working_folder_and_no_further_than_allowed(
    launch: Callable[..., Any], site: str
) -> None:
    most = 48 * MEGABYTE
    browser = launch(environment={"GRAFTBOX_DOWNLOAD_BYTES": str(most)})
    page = browser.open(f"{site}/")
    link = "const a = document.createElement('a'); a.download = 'note.txt';"
    browser.evaluate(page, link + "a.href = URL.createObjectURL(new Blob(['kept'])); a.click()")
    note = browser.folder / ".downloads" / "note.txt"
    until(lambda: note.is_file() and note.read_text() == "kept")
    browser.evaluate(page, f"location.href = '{site}/endless'")
    until(lambda: [path for path in note.parent.glob("endless*") if path.stat().st_size > most - MEGABYTE])
    assert browser.evaluate(page, "document.title") == "Start"
    assert [path.stat().st_size <= most for path in note.parent.glob("endless*")] == [True]


def test_a_browser_that_was_switched_off_is_told_of(start: Callable[..., Any]) -> None:
    client = start("--no-enable-browser")
    status, found = client.ask("GET", "/v1/browser")
    assert (status, found["state"]) == (200, "unavailable")
    assert "--no-enable-browser" in found["reason"]
    assert client.ask("POST", "/v1/browser/pages", {})[0] == 501
    assert client.ask("GET", "/v1/browser/pages/x")[0] == 404
    feature = client.ask("GET", "/v1/capabilities")[1]["features"]["browser"]
    assert not feature["works"]
    assert "--no-enable-browser" in feature["reason"]

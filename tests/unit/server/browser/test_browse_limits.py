"""Pages that open tabs or download without end: the step ends, is told of it, and the server is fine."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.server.browser.acting import bid, do, error
from tests.unit.server.conftest import SECONDS, until

if TYPE_CHECKING:
    from tests.unit.server.browser.conftest import Tester

MEGABYTE = 1024 * 1024
LIMITS = {
    "GRAFTBOX_MAX_PAGES": "6",
    "GRAFTBOX_DOWNLOAD_BYTES": str(64 * MEGABYTE),
    "GRAFTBOX_DOWNLOAD_TOTAL_BYTES": str(96 * MEGABYTE),
    "GRAFTBOX_MAX_DOWNLOADS": "20",
}
MANY = """<title>Many</title><button onclick="for (let n = 0; n < 100; n++) window.open('about:blank?' + n)">
Go</button>"""
MORE = """<title>More</title><button onclick="let n = 0;
setInterval(() => window.open('about:blank?' + n++), 20)">Go</button>"""
ENDLESS = """<title>Endless</title><button onclick="for (let n = 0;; n++) window.open('about:blank?' + n)">
Go</button>"""
CLOSED = r"\d+ new tabs? (was|were) closed at once, as 6 may be open \(GRAFTBOX_MAX_PAGES\)\."
LARGE = """<title>Large</title><button onclick="for (let n = 0; n < 4; n++) {
const link = document.createElement('a'); link.download = n + '.bin';
link.href = window.URL.createObjectURL(new Blob([new Uint8Array(40 << 20)])); link.click(); }">Go</button>"""
FILES = """<title>Files</title><button onclick="let n = 0; setInterval(() => {
const link = document.createElement('a'); link.download = n++ + '.txt'; link.href = 'data:,small';
link.click(); }, 100)">Go</button>"""


@pytest.fixture
def limited(launch: Callable[..., Tester]) -> Tester:
    return launch(environment=LIMITS)


def opened(server: Tester, name: str, page: str) -> str:
    """The id of the button of this page, which is open now."""
    (server.folder / name).write_text(page)
    answer = do(server, f'goto("file://{server.folder}/{name}")')
    assert error(answer) == ""
    return bid(answer, "button")


def press(server: Tester, button: str) -> Any:
    """The answer to a click that was done one time, however long its effects hold the page up."""
    return do(server, f'click("{button}")', once=True, timeout=120)


def noted(server: Tester, text: str, *answers: Any) -> str:
    """The line with this text of one of the answers, or of one that comes later."""
    contents = [answer["content"] for answer in answers]
    deadline = time.monotonic() + SECONDS
    while True:
        for content in contents:
            if found := re.search(rf"^\[(.*{text}.*)\]$", content, re.MULTILINE):
                return found[1]
        assert time.monotonic() < deadline, [content[:600] for content in contents]
        contents.append(do(server, "noop(100)")["content"])


def resident(server: Tester) -> int:
    """Bytes of memory of the server's own process."""
    status = Path(f"/proc/{server.client.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def test_of_a_hundred_tabs_the_newest_are_closed_and_told_of(limited: Tester) -> None:
    go = opened(limited, "many.html", MANY)
    before = resident(limited)
    line = noted(limited, "closed at once", press(limited, go))
    assert re.match(CLOSED, line)
    until(lambda: len(do(limited, "noop(0)")["extras"]["open_pages_urls"]) == 6)
    answer = do(limited, "tab_focus(0)")
    assert (error(answer), answer["extras"]["url"]) == ("", f"file://{limited.folder}/many.html")
    assert resident(limited) < before + 50 * MEGABYTE
    # There is room again for those that the agent wants.
    assert error(do(limited, "tab_focus(5)tab_close()")) == ""
    answer = do(limited, "new_tab()")
    assert (error(answer), answer["extras"]["url"]) == ("", "about:blank")


@pytest.mark.parametrize("page", [MORE, ENDLESS])
def test_tabs_without_end_leave_room_for_the_next_action(limited: Tester, site: str, page: str) -> None:
    """Opened by a timer, or by a script that never ends, whose tab is closed."""
    go = opened(limited, "tabs.html", page)
    answer = do(limited, f'click("{go}")', once=True, timeout=20)
    assert re.match(CLOSED, noted(limited, "closed at once", answer))
    if page is ENDLESS:
        said = error(answer)
        assert "does not answer" in said
        assert "Its tab was closed." in said
    answer = do(limited, f'goto("{site}/")')
    assert (error(answer), answer["extras"]["url"]) == ("", f"{site}/")
    until(lambda: len(do(limited, "noop(0)")["extras"]["open_pages_urls"]) <= 6)


def test_a_download_without_end_is_canceled(limited: Tester, site: str) -> None:
    do(limited, f'goto("{site}/")')
    line = noted(limited, "canceled", do(limited, f'goto("{site}/endless")'))
    assert line == (
        f"The download endless.bin was canceled: a file may have {64 * MEGABYTE} bytes "
        "(GRAFTBOX_DOWNLOAD_BYTES)."
    )
    answer = do(limited, f'goto("{site}/")')
    assert error(answer) == ""
    assert "canceled" not in answer["content"]


def test_downloads_one_after_the_other_end_at_the_limit(limited: Tester) -> None:
    go = opened(limited, "files.html", FILES)
    before = resident(limited)
    line = noted(limited, "canceled", press(limited, go))
    assert "a browser may download 20 files (GRAFTBOX_MAX_DOWNLOADS)" in line
    answer = do(limited, f'noop(1000)goto("file://{limited.folder}/files.html")')
    assert error(answer) == "", answer["content"]
    # Small ones may be complete before anybody can say no.
    assert 20 <= len(list((limited.folder / ".downloads").iterdir())) < 40
    assert resident(limited) < before + 50 * MEGABYTE


def test_all_downloads_together_have_a_limit(limited: Tester) -> None:
    go = opened(limited, "large.html", LARGE)
    line = noted(limited, "canceled", press(limited, go))
    assert f"a browser may download {96 * MEGABYTE} bytes in all" in line
    folder = limited.folder / ".downloads"

    def sizes() -> list[int]:
        return [path.stat().st_size for path in folder.iterdir()]

    # On a busy machine one more may be complete before anybody can say no; of those canceled nothing stays.
    until(lambda: len(sizes()) >= 2 and set(sizes()) == {40 * MEGABYTE})

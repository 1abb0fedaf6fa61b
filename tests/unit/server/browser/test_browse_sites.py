"""What real sites do to an agent: dialogs, choosers, frames of others, documents, large pages, proxies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.server.browser.acting import bid, do, error
from tests.unit.server.conftest import until

from graftbox.server.browser.marking import MOST

if TYPE_CHECKING:
    from tests.unit.server.browser.conftest import Tester

OPEN = "this.attachShadow({mode: 'open'}).innerHTML = '<button onclick=\"textContent = `ok`\">Open</button>'"
PAGES = {
    "/print": "<title>Print</title><script>print()</script><p>printed",
    "/leave": "<title>Leave</title><input><script>addEventListener('beforeunload', e => e.preventDefault())"
    "</script>",
    "/allow": "<title>?</title><script>Notification.requestPermission(); navigator.geolocation."
    "getCurrentPosition(() => {}, error => { document.title = 'refused'; })</script>",
    "/choose": "<title>Choose</title><input type=file id=f hidden><button onclick='f.click()'>File</button>",
    "/frames": "<title>Frames</title><iframe src='http://localhost:PORT/inner'></iframe>",
    "/inner": "<title>Inner</title><button onclick=\"this.textContent = 'pressed'\">Press</button>",
    "/shadow": "<title>Shadow</title><x-a></x-a><script>customElements.define('x-a', class extends "
    f"HTMLElement {{ connectedCallback() {{ {OPEN} }} }})</script>",
    "/huge": "<title>Huge</title><h1>Top</h1><label for=n>Name</label><input id=n value=Jane><ul><li>one</ul>"
    "<a href=/print title=tip>Print</a><button onclick=\"this.textContent = 'pressed'\">First</button>"
    "<p hidden>not seen</p><iframe srcdoc='<button>Inside</button>'></iframe>" + "<p>end</p>" * MOST,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    asked: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser hangs up when it likes."""


class _Site(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind, headers, status = "text/html", {}, 200
        body = PAGES.get(self.path, "").replace("PORT", str(self.server.server_port)).encode()
        if self.path == "/secret":
            status, headers, body = 401, {"WWW-Authenticate": 'Basic realm="x"'}, b"no entry"
        elif self.path == "/paper":
            kind, body = "application/pdf", b"%PDF-1.4\n%%EOF\n"
        elif self.path.startswith("http://"):
            body = b"<title>Proxied</title>"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Site) as found:
        found.asked = []
        threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def visit(browser: Tester, server: _Server) -> Callable[[str], Any]:
    def go(path: str) -> Any:
        return do(browser, f'goto("http://127.0.0.1:{server.server_port}{path}")')

    return go


def test_a_page_that_asks_for_a_password_shows_its_refusal(visit: Callable[[str], Any]) -> None:
    assert "no entry" in visit("/secret")["content"]


def test_printing_holds_nobody_up(visit: Callable[[str], Any]) -> None:
    answer = visit("/print")
    assert error(answer) == ""
    assert "printed" in answer["content"]


def test_permissions_are_refused_without_asking(browser: Tester, visit: Callable[[str], Any]) -> None:
    visit("/allow")
    until(lambda: "'refused'" in do(browser, "noop(50)")["content"])


def test_a_page_that_does_not_want_to_be_left_is_left(browser: Tester, visit: Callable[[str], Any]) -> None:
    name = bid(visit("/leave"), "textbox")
    assert error(do(browser, f'fill("{name}", "unsaved")')) == ""
    answer = visit("/print")
    assert error(answer) == ""
    assert "printed" in answer["content"]


def test_a_file_chooser_that_nobody_answers_is_no_hindrance(
    browser: Tester, visit: Callable[[str], Any]
) -> None:
    button = bid(visit("/choose"), "button 'File'")
    assert error(do(browser, f'click("{button}")')) == ""
    assert error(visit("/print")) == ""


def test_elements_in_a_frame_of_another_site_are_used(browser: Tester, visit: Callable[[str], Any]) -> None:
    button = bid(visit("/frames"), "button 'Press'")
    assert button.startswith("a")
    # On a busy machine the half second of a click may be over before it is done.
    until(lambda: "button 'pressed'" in do(browser, f'click("{button}")')["content"])


def test_elements_in_a_shadow_tree_are_used(browser: Tester, visit: Callable[[str], Any]) -> None:
    button = bid(visit("/shadow"), "button 'Open'")
    until(lambda: "button 'ok'" in do(browser, f'click("{button}")')["content"])


def test_a_document_that_no_page_can_show_becomes_a_file(visit: Callable[[str], Any]) -> None:
    answer = visit("/paper")
    assert answer["observation"] == "download"
    assert answer["extras"]["file_path"].endswith(".pdf")


def test_of_a_very_large_page_there_is_an_outline(browser: Tester, visit: Callable[[str], Any]) -> None:
    answer = visit("/huge")
    assert error(answer) == ""
    content = answer["content"]
    assert f"this is an outline of its first {MOST} elements, and only these have a bid.]" in content
    for line in (
        "RootWebArea 'Huge'\n",
        "heading 'Top'",
        "LabelText ''\n\t\tStaticText 'Name'",
        "textbox 'Name' value='Jane', clickable",
        "listitem ''",
        "link 'Print', clickable, url='http://",
        "Iframe ''\n\t\tRootWebArea ''",
        "button 'Inside', clickable",
    ):
        assert line in content, content[:2000]
    assert "not seen" not in content
    assert content.count("StaticText 'end'") < MOST
    first = bid(answer, "button 'First'")
    pressed = do(browser, f'click("{first}")')
    assert error(pressed) == ""
    assert "button 'pressed'" in pressed["content"]


def test_proxies_of_the_container_are_used_but_for_what_they_are_not_for(
    launch: Callable[..., Tester], server: _Server
) -> None:
    proxy = f"http://127.0.0.1:{server.server_port}"
    browser = launch(environment={"HTTP_PROXY": proxy, "NO_PROXY": "direct.invalid"})
    answer = do(browser, 'goto("http://somewhere.invalid/page")')
    assert (error(answer), "'Proxied'" in answer["content"]) == ("", True)
    assert "http://somewhere.invalid/page" in server.asked
    assert "net::ERR_NAME_NOT_RESOLVED" in error(do(browser, 'goto("http://direct.invalid/")'))

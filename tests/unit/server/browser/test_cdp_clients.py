"""Clients of the Chrome DevTools Protocol, many at a time, at one Chromium."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.unit.server.conftest import SECONDS, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

LARGE = 64 * 1024 * 1024


class Wire:
    """One connection: `call` returns the answer, `events` are what came before it."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.count = 0
        self.events: list[dict[str, Any]] = []

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.connection.recv(SECONDS))
        return message

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self.connection.send(json.dumps(message))
        while (answer := self.receive()).get("id") != self.count:
            self.events.append(answer)
        assert answer.get("sessionId") == session
        return answer

    def attach(self, target: str) -> str:
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["result"]["sessionId"]
        assert isinstance(session, str)
        return session


@pytest.fixture
def wire(browser: Any) -> Iterator[Callable[[], Wire]]:
    """Connects as a new client."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(connected(browser))


@contextmanager
def connected(browser: Any) -> Iterator[Wire]:
    url = f"ws://127.0.0.1:{browser.port}/v1/browser/cdp"
    with connect(url, max_size=LARGE, proxy=None, open_timeout=SECONDS) as connection:
        yield Wire(connection)


def test_the_address_is_told_as_chromium_tells_it(browser: Any) -> None:
    for path in ("/json/version", "/json/version/"):
        status, found = browser.ask("GET", path)
        assert status == 200
        assert found["Browser"].startswith(("HeadlessChrome/", "Chrome/"))
        assert found["webSocketDebuggerUrl"] == f"ws://127.0.0.1:{browser.port}/v1/browser/cdp"


def test_only_who_has_the_key_gets_in(launch: Callable[..., Any]) -> None:
    browser = launch(environment={"SESSION_API_KEY": "secret"}, auth=True)
    url = f"ws://127.0.0.1:{browser.port}/v1/browser/cdp"
    with pytest.raises(InvalidStatus, match="403"):
        connect(url, proxy=None)
    key = {"X-Session-API-Key": "secret"}
    with connect(url, proxy=None, additional_headers=key, open_timeout=SECONDS) as connection:
        assert "result" in Wire(connection).call("Browser.getVersion")


def test_each_client_believes_that_the_browser_is_its_own(wire: Callable[[], Wire], site: str) -> None:
    clients = [wire(), wire(), wire()]
    sessions = []
    for client in clients:
        client.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)
        target = client.call("Target.createTarget", url=f"{site}/")["result"]["targetId"]
        sessions.append(client.attach(target))
    for number, (client, session) in enumerate(zip(clients, sessions, strict=True)):
        answer = client.call("Runtime.evaluate", session, expression=f"{number} + 40")
        assert answer["result"]["result"]["value"] == number + 40
        assert all(event.get("sessionId") is None or event["sessionId"] != "" for event in client.events)


def test_a_client_cannot_use_the_sessions_of_another(wire: Callable[[], Wire]) -> None:
    one, other = wire(), wire()
    session = one.attach(one.call("Target.createTarget", url="about:blank")["result"]["targetId"])
    assert other.call("Runtime.evaluate", session, expression="1")["error"]["code"] == -32001
    assert "result" in one.call("Runtime.evaluate", session, expression="1")
    one.call("Target.detachFromTarget", sessionId=session)
    assert one.call("Runtime.evaluate", session, expression="1")["error"]["code"] == -32001


def test_large_messages_pass_both_ways(wire: Callable[[], Wire]) -> None:
    client = wire()
    session = client.attach(client.call("Target.createTarget", url="about:blank")["result"]["targetId"])
    text = "é" * 1_500_000
    answer = client.call("Runtime.evaluate", session, expression=f"'{text}'", returnByValue=True)
    assert answer["result"]["result"]["value"] == text


def test_what_is_no_request_is_refused(wire: Callable[[], Wire]) -> None:
    client = wire()
    for text in ("", "[]", "{}", '{"id": 1}', "{" * 1000, "null", '"text"'):
        client.connection.send(text)
        assert client.receive()["error"]["code"] == -32600
    assert client.call("No.suchMethod")["error"]["code"] == -32601
    assert "result" in client.call("Browser.getVersion")


def test_what_a_client_made_for_itself_ends_with_it(
    browser: Any, wire: Callable[[], Wire], site: str
) -> None:
    kept = browser.open(f"{site}/")
    until(lambda: browser.ask("GET", "")[1]["clients"] == 0)  # those of other tests
    with connected(browser) as client:
        context = client.call("Target.createBrowserContext", disposeOnDetach=True)["result"][
            "browserContextId"
        ]
        client.call("Target.createTarget", url=f"{site}/other", browserContextId=context)
        until(lambda: f"{site}/other" in browser.urls)
        assert browser.ask("GET", "")[1]["clients"] == 1
    until(lambda: f"{site}/other" not in browser.urls)
    until(lambda: browser.ask("GET", "")[1]["clients"] == 0)
    assert browser.evaluate(kept, "document.title") == "Start"


def test_closing_the_browser_closes_the_connection_alone(browser: Any, wire: Callable[[], Wire]) -> None:
    client, other = wire(), wire()
    assert client.call("Browser.close")["result"] == {}
    with pytest.raises(ConnectionClosed):
        client.receive()
    assert "result" in other.call("Browser.getVersion")
    assert browser.ask("GET", "")[1]["state"] == "running"


def test_clients_hear_of_the_browsers_end(browser: Any, wire: Callable[[], Wire]) -> None:
    client = wire()
    os.kill(browser.pid, signal.SIGKILL)
    with pytest.raises(ConnectionClosed) as ended:
        client.receive()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1011
    assert "browser ended" in ended.value.rcvd.reason
    assert "result" in wire().call("Browser.getVersion")


def test_a_client_gets_no_more_pages_than_may_be(launch: Callable[..., Any]) -> None:
    browser = launch(environment={"GRAFTBOX_MAX_PAGES": "2"})
    with connected(browser) as client:
        for _ in range(2):
            assert "result" in client.call("Target.createTarget", url="about:blank")
        until(lambda: len(browser.urls) == 2)
        assert "close one" in client.call("Target.createTarget", url="about:blank")["error"]["message"]

"""A plugin's pages through the server: who is let in, and that everything passes in both directions."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.unit.server.conftest import SECONDS, SOURCE, Client, Start, until

KEY = "the-key"
KEYED = {"X-Session-API-Key": KEY}
PROGRAM = str(Path(__file__).with_name("plugin_program.py"))
MANIFEST = f"""
name = "page"
start = ["{sys.executable}", "{PROGRAM}", "{{socket}}"]
on_demand = true
[environment]
PYTHONPATH = "{SOURCE}"
[serve]
socket = "{{socket}}"
open = "here?folder=/x"
"""


@pytest.fixture(scope="module")
def client(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Client:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "page").mkdir()
    (folder / "page/plugin.toml").write_text(MANIFEST)
    return start(auth=True, environment={"SESSION_API_KEY": KEY, "GRAFTBOX_PLUGINS": str(folder)})


def token(client: Client) -> str:
    link: str = client.ask("GET", "/v1/plugins/page", headers=KEYED)[1]["link"]
    assert link.startswith("/v1/proxy/page/here?tkn=")
    assert link.endswith("&folder=/x")
    return link.partition("tkn=")[2].partition("&")[0]


Answer = tuple[int, dict[str, str], bytes]


def fetch(client: Client, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    """One request on a connection of its own; ``x_y`` stands for the header ``X-Y``."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SECONDS)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/v1/proxy/page{path}", body, named)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, response.read()
    finally:
        connection.close()


def cookie(client: Client) -> str:
    """What a browser has after it has opened the link."""
    status, headers, _ = fetch(client, f"/?tkn={token(client)}", accept="text/html")
    assert status == 302
    return headers["set-cookie"].partition(";")[0]


@pytest.fixture
def dying(client: Client) -> Iterator[Client]:
    """For a test that kills the plugin: after several deaths in a row it would be started again later."""
    yield client
    assert client.ask("POST", "/v1/plugins/page/restart", headers=KEYED)[1]["state"] == "running"


def test_nobody_is_let_in_without_key_token_or_cookie(client: Client) -> None:
    for path in ("/", "/health", "/?tkn=", "/?tkn=wrong", "/../../v1/plugins"):
        status, _, body = fetch(client, path)
        assert status == 403, path
        assert b"GET /v1/plugins/page" in body
    assert fetch(client, "/", x_session_api_key="wrong")[0] == 403
    assert fetch(client, "/", cookie="graftbox-0=1")[0] == 403
    assert client.ask("GET", "/v1/proxy/nonsense/")[0] == 403
    assert client.ask("GET", "/v1/proxy/nonsense/", headers=KEYED)[0] == 404
    assert client.ask("GET", "/v1/proxy/jupyter/", headers=KEYED)[0] == 404


def test_the_plugin_sees_the_request_but_nothing_that_opens_the_server(client: Client) -> None:
    given = {"authorization": f"Bearer {KEY}", "cookie": "a=1; " + cookie(client) + "; b=2", "x_mine": "yes"}
    status, _, body = fetch(client, "/a%20b/c?d=e&f", "PUT", b"body", **KEYED, **given)
    assert status == 200
    seen = json.loads(body)
    assert (seen["method"], seen["target"]) == ("PUT", "/a%20b/c?d=e&f")
    headers = dict(seen["headers"])
    assert headers["x-mine"] == "yes"
    assert headers["cookie"] == "a=1; b=2"
    assert headers["x-forwarded-prefix"] == "/v1/proxy/page"
    assert headers["x-forwarded-host"] == headers["host"] == f"127.0.0.1:{client.port}"
    assert KEY not in body.decode()
    other = json.loads(fetch(client, f"/x?tkn={token(client)}", authorization="Bearer theirs")[2])
    assert other["target"] == "/x?"
    assert ["authorization", "Bearer theirs"] in other["headers"]


def test_a_browser_exchanges_the_token_for_a_cookie(client: Client) -> None:
    secret = token(client)
    status, headers, _ = fetch(client, f"/here?a=b&tkn={secret}&folder=/x", accept="text/html,*/*")
    assert (status, headers["location"]) == (302, "./here?a=b&folder=/x")
    assert headers["referrer-policy"] == "no-referrer"
    value, *attributes = headers["set-cookie"].split("; ")
    assert set(attributes) >= {"HttpOnly", "SameSite=Lax", "Path=/v1/proxy/page/"}
    assert fetch(client, "/here", cookie=value)[0] == 200
    assert fetch(client, "/here", cookie=value, sec_fetch_site="cross-site")[0] == 403
    assert fetch(client, "/here", "POST", b"", cookie=value)[0] == 403
    own = f"http://127.0.0.1:{client.port}"
    assert fetch(client, "/here", "POST", b"", cookie=value, origin=own)[0] == 200
    assert fetch(client, "/here", "POST", b"", cookie=value, origin="http://127.0.0.1:1")[0] == 403
    # It opens nothing but its plugin.
    assert client.ask("GET", "/v1/plugins", headers={"Cookie": value})[0] == 403
    assert client.ask("GET", "/v1/plugins", headers={"X-Session-API-Key": secret})[0] == 403


def test_the_cookie_of_https_is_only_for_https(client: Client) -> None:
    path = f"/?tkn={token(client)}"
    assert "Secure" in fetch(client, path, accept="text/html", x_forwarded_proto="https")[1]["set-cookie"]


def test_a_page_without_its_last_slash_is_sent_to_it(client: Client) -> None:
    status, headers, _ = fetch(client, "?a=1", **KEYED)
    assert (status, headers["location"]) == (302, "page/?a=1")


def test_addresses_and_cookies_of_the_plugins_root_are_moved(client: Client) -> None:
    status, headers, _ = fetch(client, "/moved", **KEYED)
    assert (status, headers["location"]) == (302, "/v1/proxy/page/there?x=1")
    assert headers["set-cookie"] == "a=1; Path=/v1/proxy/page/; HttpOnly"


def test_a_plugins_service_worker_may_not_answer_for_the_server(client: Client) -> None:
    headers = fetch(client, "/worker", **KEYED)[1]
    assert headers["service-worker-allowed"] == "/v1/proxy/page/"
    assert headers["x-kept"] == "1"


def test_large_bodies_pass_in_both_directions(client: Client) -> None:
    assert fetch(client, "/big", **KEYED)[2] == b"x" * 64 * 1024 * 1024
    assert fetch(client, "/count", "POST", b"y" * 70_000_000, **KEYED)[2] == b"70000000"
    pieces = (b"z" * 1000 for _ in range(1000))
    assert fetch(client, "/count", "POST", pieces, **KEYED)[2] == b"1000000"


def test_an_answer_is_passed_on_while_it_is_made(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SECONDS)
    connection.request("GET", "/v1/proxy/page/drip", headers=KEYED)
    response = connection.getresponse()
    assert response.readline() == b"0\n"
    assert response.readline() == b"1\n"
    connection.close()


def test_a_client_that_does_not_read_costs_no_memory(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port)) as slow:
        slow.sendall(b"GET /v1/proxy/page/big HTTP/1.1\r\nHost: x\r\nX-Session-API-Key: the-key\r\n\r\n")
        time.sleep(0.5)
        status = Path(f"/proc/{client.process.pid}/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0])
        assert fetch(client, "/health", **KEYED)[0] == 200
    assert resident < 200_000


def test_a_plugin_that_dies_in_the_middle_is_said_so_and_back_at_once(dying: Client) -> None:
    status, headers, body = fetch(dying, "/die", **KEYED)
    assert (status, headers["retry-after"]) == (503, "1")
    assert b"before it had answered" in body
    assert fetch(dying, "/health", **KEYED)[0] == 200
    status, _, body = fetch(dying, "/die", **KEYED, accept="text/html")
    assert status == 503
    assert b'<meta http-equiv="refresh"' in body
    assert fetch(dying, "/health", **KEYED)[0] == 200


def test_a_plugin_that_was_stopped_answers_503(client: Client) -> None:
    assert client.ask("POST", "/v1/plugins/page/stop", headers=KEYED)[0] == 200
    status, headers, body = fetch(client, "/health", **KEYED)
    assert status == 503
    assert "retry-after" not in headers
    assert b"is not started" in body
    assert client.ask("POST", "/v1/plugins/page/start", headers=KEYED)[1]["state"] == "running"
    assert fetch(client, "/health", **KEYED)[0] == 200


async def _echoes(uri: str, **more: Any) -> None:
    async with websockets.connect(uri, max_size=None, **more) as connection:
        await connection.send("text")
        assert await connection.recv() == "text"
        large = bytes(range(256)) * 8192
        for _ in range(16):
            await connection.send(large)
            assert await connection.recv() == large


def test_websockets_pass_both_ways(client: Client) -> None:
    uri = f"ws://127.0.0.1:{client.port}/v1/proxy/page/ws"
    asyncio.run(_echoes(uri, additional_headers=KEYED))
    asyncio.run(_echoes(f"{uri}?tkn={token(client)}"))
    own = f"http://127.0.0.1:{client.port}"
    asyncio.run(_echoes(uri, origin=own, additional_headers={"Cookie": cookie(client)}))


def test_websockets_of_others_are_refused(client: Client) -> None:
    uri = f"ws://127.0.0.1:{client.port}/v1/proxy/page/ws"
    for given in ({}, {"Cookie": cookie(client)}, {"Cookie": cookie(client), "Origin": "http://127.0.0.1:1"}):
        with pytest.raises(websockets.InvalidStatus) as refused:
            asyncio.run(_echoes(uri, additional_headers=given))
        assert refused.value.response.status_code == 403
    with pytest.raises(websockets.InvalidStatus) as refused:
        asyncio.run(_echoes(uri.replace("/ws", "/health"), additional_headers=KEYED))
    assert refused.value.response.status_code == 200


async def _fill(uri: str) -> int:
    """Bytes that go up before anybody has read what came back."""
    async with websockets.connect(uri, max_size=None, max_queue=1, additional_headers=KEYED) as connection:
        sent = 0
        try:
            async with asyncio.timeout(1):
                while True:
                    await connection.send(b"w" * 1024 * 1024)
                    sent += 1024 * 1024
        except TimeoutError:
            connection.transport.abort()
        return sent


def test_a_websocket_whose_client_does_not_read_is_held_back(client: Client) -> None:
    assert asyncio.run(_fill(f"ws://127.0.0.1:{client.port}/v1/proxy/page/ws")) < 100 * 1024 * 1024
    until(lambda: fetch(client, "/health", **KEYED)[0] == 200)


def test_a_websocket_ends_when_its_plugin_dies(dying: Client) -> None:
    async def session() -> None:
        uri = f"ws://127.0.0.1:{dying.port}/v1/proxy/page/ws"
        async with websockets.connect(uri, additional_headers=KEYED) as connection:
            await asyncio.to_thread(fetch, dying, "/die", **KEYED)
            with pytest.raises(websockets.ConnectionClosed):
                await connection.recv()

    asyncio.run(session())
    assert fetch(dying, "/health", **KEYED)[0] == 200


def test_without_a_key_only_pages_of_other_origins_are_kept_out(start: Start, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page/plugin.toml").write_text(MANIFEST)
    client = start("--plugin-path", str(tmp_path))
    assert fetch(client, "/health")[0] == 200
    assert fetch(client, "/health", "POST", b"", origin="http://evil.example")[0] == 403
    uri = f"ws://127.0.0.1:{client.port}/v1/proxy/page/ws"
    asyncio.run(_echoes(uri))
    with pytest.raises(websockets.InvalidStatus):
        asyncio.run(_echoes(uri, origin="http://evil.example"))

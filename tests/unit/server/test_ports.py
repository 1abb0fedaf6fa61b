"""The ports of the sandbox through the server: what the agent has started, seen from outside."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from tests.unit.server.conftest import SECONDS, SOURCE, Client, Start, until

KEY = "the-key"
KEYED = {"X-Session-API-Key": KEY}
PROGRAM = str(Path(__file__).with_name("plugin_program.py"))
STAND_IN = Path(__file__).with_name("vscode_program.py")


@pytest.fixture(scope="module")
def client(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Client:
    vscode = tmp_path_factory.mktemp("vscode") / "openvscode-server"
    vscode.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} {STAND_IN} "$@"\n')
    vscode.chmod(0o755)
    return start(auth=True, environment={"SESSION_API_KEY": KEY, "GRAFTBOX_VSCODE_SERVER": str(vscode)})


@contextmanager
def serving(address: str) -> Iterator[int]:
    """A web application on a free port of an address."""
    words = [sys.executable, PROGRAM, f"tcp:{address}"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().split()[-1])
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving("127.0.0.1") as port:
        yield port


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody else gets, and on which nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


Answer = tuple[int, dict[str, str], bytes]


def fetch(client: Client, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    """One request on a connection of its own; ``x_y`` stands for the header ``X-Y``."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SECONDS)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, response.read()
    finally:
        connection.close()


def described(client: Client, port: int) -> Any:
    status, found = client.ask("GET", f"/v1/ports/{port}", headers=KEYED)
    assert status == 200
    return found


def test_an_application_is_shown_to_who_has_the_key(client: Client, port: int) -> None:
    status, _, body = fetch(client, f"/v1/proxy/port/{port}/a%20b?c=d", "PUT", b"body", **KEYED)
    assert status == 200
    seen = json.loads(body)
    assert (seen["method"], seen["target"]) == ("PUT", "/a%20b?c=d")
    headers = dict(seen["headers"])
    assert headers["host"] == f"localhost:{port}"
    assert headers["x-forwarded-host"] == f"127.0.0.1:{client.port}"
    assert headers["x-forwarded-prefix"] == f"/v1/proxy/port/{port}"
    assert headers["x-forwarded-proto"] == "http"
    assert KEY not in body.decode()
    assert fetch(client, f"/v1/proxy/port/{port}/", authorization=f"Bearer {KEY}")[0] == 200


def test_nobody_else_is_let_in(client: Client, port: int) -> None:
    with closed_port() as other:
        for path in (f"{port}/", f"{other}/", f"{port}/?tkn=wrong", f"{client.port}/", "", "x/", "0/"):
            assert fetch(client, f"/v1/proxy/port/{path}")[0] == 403, path
        token = described(client, other)["link"].partition("tkn=")[2]
        assert fetch(client, f"/v1/proxy/port/{port}/?tkn={token}")[0] == 403
    assert fetch(client, f"/v1/ports/{port}")[0] == 403
    assert fetch(client, "/v1/ports")[0] == 403


def test_a_browser_opens_the_link_and_gets_a_cookie_for_that_port_alone(client: Client, port: int) -> None:
    link = described(client, port)["link"]
    assert link.startswith(f"/v1/proxy/port/{port}/?tkn=")
    status, headers, _ = fetch(client, link, accept="text/html")
    assert (status, headers["location"]) == (302, "./")
    value, *attributes = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax"} <= set(attributes)
    assert f"Path=/v1/proxy/port/{port}/" in attributes or not any(a.startswith("Path") for a in attributes)
    status, _, body = fetch(client, f"/v1/proxy/port/{port}/here", cookie=f"theirs=1; {value}")
    assert status == 200
    assert dict(json.loads(body)["headers"])["cookie"] == "theirs=1"
    assert fetch(client, "/v1/proxy/vscode/", cookie=value)[0] == 403
    assert fetch(client, "/v1/ports", cookie=value)[0] == 403
    assert fetch(client, f"/v1/proxy/port/{port}/here", "POST", b"", cookie=value)[0] == 403
    own = f"http://127.0.0.1:{client.port}"
    status, _, body = fetch(client, f"/v1/proxy/port/{port}/here", "POST", b"", cookie=value, origin=own)
    assert status == 200
    # It compares the two, as frameworks do.
    assert dict(json.loads(body)["headers"])["origin"] == f"http://localhost:{port}"


def test_origins_of_others_stay_as_they_are(client: Client, port: int) -> None:
    body = fetch(client, f"/v1/proxy/port/{port}/", origin="http://evil.example", **KEYED)[2]
    assert dict(json.loads(body)["headers"])["origin"] == "http://evil.example"


def test_addresses_of_the_application_lead_through_the_proxy(client: Client, port: int) -> None:
    prefix = f"/v1/proxy/port/{port}"
    assert fetch(client, f"{prefix}/absolute", **KEYED)[1]["location"] == f"{prefix}/there?x=1"
    status, headers, _ = fetch(client, f"{prefix}/moved", **KEYED)
    assert (status, headers["location"]) == (302, f"{prefix}/there?x=1")
    assert headers["set-cookie"] == f"a=1; Path={prefix}/; HttpOnly"
    status, headers, _ = fetch(client, f"{prefix}?a=1", **KEYED)
    assert (status, headers["location"]) == (302, f"{port}/?a=1")


def test_answers_are_passed_on_while_they_are_made(client: Client, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SECONDS)
    connection.request("GET", f"/v1/proxy/port/{port}/drip", headers=KEYED)
    response = connection.getresponse()
    assert [response.readline(), response.readline()] == [b"0\n", b"1\n"]
    connection.close()
    assert fetch(client, f"/v1/proxy/port/{port}/count", "POST", b"y" * 20_000_000, **KEYED)[2] == b"20000000"


def test_websockets_pass_both_ways(client: Client, port: int) -> None:
    async def echoes(query: str, **more: Any) -> None:
        uri = f"ws://127.0.0.1:{client.port}/v1/proxy/port/{port}/ws{query}"
        async with websockets.connect(uri, max_size=None, **more) as connection:
            for message in ("text", bytes(range(256)) * 4096):
                await connection.send(message)
                assert await connection.recv() == message

    asyncio.run(echoes("", additional_headers=KEYED))
    asyncio.run(echoes("?" + described(client, port)["link"].partition("?")[2]))
    with pytest.raises(websockets.InvalidStatus):
        asyncio.run(echoes(""))


def test_where_nothing_listens_the_answer_says_so_and_a_page_asks_again(client: Client) -> None:
    with closed_port() as port:
        status, headers, body = fetch(client, f"/v1/proxy/port/{port}/", **KEYED)
        assert (status, headers["retry-after"]) == (502, "2")
        assert f"Nothing listens on port {port}" in json.loads(body)["detail"]
        status, _, body = fetch(client, f"/v1/proxy/port/{port}/", accept="text/html", **KEYED)
        assert status == 502
        assert b'<meta http-equiv="refresh" content="2">' in body
        with pytest.raises(websockets.InvalidStatus) as refused:
            asyncio.run(_connect(f"ws://127.0.0.1:{client.port}/v1/proxy/port/{port}/"))
        assert refused.value.response.status_code == 502


async def _connect(uri: str) -> None:
    async with websockets.connect(uri, additional_headers=KEYED):
        pass


def test_what_does_not_speak_http_is_said_so(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]

        def answer() -> None:
            for _ in range(2):  # what only asks is asked again
                connection = mute.accept()[0]
                connection.recv(1)
                connection.sendall(b"SSH-2.0-none\r\n")
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        status, _, body = fetch(client, f"/v1/proxy/port/{port}/", **KEYED)
        thread.join()
    assert status == 502
    assert b"does not speak HTTP" in body


def test_the_servers_own_ports_are_refused(client: Client) -> None:
    status, _, body = fetch(client, f"/v1/proxy/port/{client.port}/alive", **KEYED)
    assert status == 400
    assert b"this server's own" in body
    for text in ("65536", "080", "-1", "x", "8080x", "999999", ""):
        assert fetch(client, f"/v1/proxy/port/{text}/", **KEYED)[0] == 404, text
    assert fetch(client, "/v1/ports/65536", **KEYED)[0] == 404


def test_ports_that_listen_are_listed_with_their_links(client: Client, port: int) -> None:
    found = {row["port"]: row for row in client.ask("GET", "/v1/ports", headers=KEYED)[1]["ports"]}
    assert found[port]["addresses"] == ["127.0.0.1"]
    assert found[port]["user"] == os.getuid()
    assert found[port] == described(client, port)
    assert client.port not in found
    with closed_port() as other:
        assert other not in found
        assert described(client, other)["listening"] is False


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_an_application_on_ipv6_alone_is_reached_too(client: Client) -> None:
    with serving("::1") as port:
        assert fetch(client, f"/v1/proxy/port/{port}/", **KEYED)[0] == 200
        assert described(client, port)["addresses"] == ["::1"]


def test_an_application_that_is_killed_in_the_middle_ends_the_answer(client: Client) -> None:
    with serving("127.0.0.1") as port:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=SECONDS)
        connection.request("GET", f"/v1/proxy/port/{port}/drip", headers=KEYED)
        response = connection.getresponse()
        assert response.readline() == b"0\n"
        assert fetch(client, f"/v1/proxy/port/{port}/die", "POST", b"", **KEYED)[0] == 502
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        connection.close()
        until(lambda: fetch(client, f"/v1/proxy/port/{port}/", **KEYED)[0] == 502)


def test_vscode_has_the_ports_below_its_own_path(client: Client, port: int) -> None:
    """As code-server: its view of ports opens them there, with the cookie that it has anyway."""
    link = client.ask("GET", "/v1/plugins/vscode", headers=KEYED)[1]["link"]
    status, headers, _ = fetch(client, link, accept="text/html")
    assert status == 302
    cookie = headers["set-cookie"].partition(";")[0]
    path = f"/v1/proxy/vscode/proxy/{port}"
    status, _, body = fetch(client, f"{path}/x?y", cookie=cookie)
    assert status == 200
    assert json.loads(body)["target"] == "/x?y"
    assert dict(json.loads(body)["headers"])["x-forwarded-prefix"] == path
    assert "cookie" not in dict(json.loads(body)["headers"])
    assert fetch(client, path, cookie=cookie)[1]["location"] == f"{port}/"
    assert fetch(client, f"{path}/moved", cookie=cookie)[1]["location"] == f"{path}/there?x=1"
    assert fetch(client, f"{path}/x")[0] == 403
    assert fetch(client, "/v1/proxy/vscode/proxy/65536/", cookie=cookie)[0] == 404
    assert fetch(client, f"/v1/proxy/vscode/proxy/{client.port}/", cookie=cookie)[0] == 400
    assert (
        json.loads(fetch(client, "/v1/proxy/vscode/proxyless", cookie=cookie)[2])["target"] == "/proxyless?"
    )


def test_ports_are_there_without_a_key_too_but_not_for_other_origins(start: Start, port: int) -> None:
    client = start()
    path = f"/v1/proxy/port/{port}/"
    assert fetch(client, path)[0] == 200
    assert fetch(client, path, "POST", b"", origin="http://evil.example")[0] == 403

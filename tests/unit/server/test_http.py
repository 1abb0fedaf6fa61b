"""What a client meets at the HTTP face."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

JSON = dict[str, Any]
SOURCE = Path(__file__).parents[3] / "src"


def test_alive_and_server_info_need_no_key(start: Any) -> None:
    server = start(auth=True, environment={"SESSION_API_KEY": "secret"})
    assert server.ask("GET", "/alive") == (200, {"status": "ok"})
    status, info = server.ask("GET", "/server_info")
    assert status == 200
    assert info["uptime"] >= info["idle_time"] >= 0
    assert set(info["resources"]) == {"cpu_percent", "memory", "disk", "io"}


def test_everything_else_needs_the_key(start: Any) -> None:
    server = start(auth=True, environment={"SESSION_API_KEY": "secret"})
    action = {"action": {"action": "run", "args": {"command": "env"}, "timeout": 20}}
    for headers in ({}, {"X-Session-API-Key": "wrong"}, {"X-Session-API-Key": "secre"}):
        assert server.ask("POST", "/execute_action", action, headers) == (403, {"detail": "Invalid API Key"})
        assert server.ask("GET", "/nope", None, headers)[0] == 403
    status, answer = server.ask("POST", "/execute_action", action, {"X-Session-API-Key": "secret"})
    assert status == 200
    assert "secret" not in answer["content"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nope", None, 404),
        ("GET", "/execute_action", None, 405),
        ("POST", "/alive", {}, 405),
        ("POST", "/execute_action", b"", 422),
        ("POST", "/execute_action", b"\xff\xfe", 422),
        ("POST", "/execute_action", b"[" * 200_000, 422),
        ("POST", "/execute_action", [1], 422),
        ("POST", "/execute_action", {"action": "run"}, 422),
        ("POST", "/execute_action", {"action": {"action": "run", "args": {"command": 3}}}, 500),
        ("POST", "/execute_action", {"action": {"action": "run", "args": {}}}, 500),
        ("POST", "/execute_action", {"action": {"action": "run", "args": []}}, 500),
        ("POST", "/execute_action", {"action": {"action": ["run"]}}, 500),
        ("POST", "/execute_action", {"action": {"action": "read", "args": {"path": "x", "end": "1"}}}, 500),
        (
            "POST",
            "/execute_action",
            {"action": {"action": "run", "args": {"command": ""}, "timeout": "1"}},
            500,
        ),
    ],
)
def test_a_bad_request_is_answered_and_the_server_goes_on(
    client: Any, method: str, path: str, body: object, status: int
) -> None:
    given, answer = client.ask(method, path, body)
    assert given == status
    assert "detail" in answer
    assert client.ask("GET", "/alive") == (200, {"status": "ok"})


def raw(client: Any, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


def test_a_body_beyond_the_limit_is_refused_unread(client: Any) -> None:
    head = b"POST /execute_action HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n"
    assert raw(client, head).startswith(b"HTTP/1.1 413 ")


def test_what_is_no_http_gets_400(client: Any) -> None:
    assert raw(client, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_requests_sent_together_are_answered_in_order(client: Any) -> None:
    request = b"GET /alive HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /nope HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = raw(client, request * 3 + last)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.rindex(b"HTTP/1.1 404") > answer.rindex(b"HTTP/1.1 200")


def test_a_client_that_never_reads_its_answers_does_not_fill_the_memory(client: Any) -> None:
    requests = b"GET /alive HTTP/1.1\r\nhost: x\r\n\r\n" * 300_000
    with socket.create_connection(("127.0.0.1", client.port), timeout=1) as connection:
        with pytest.raises(TimeoutError):
            connection.sendall(requests + requests)
        assert client.ask("GET", "/alive") == (200, {"status": "ok"})


def test_many_idle_connections_do_not_keep_a_new_client_out(client: Any) -> None:
    connections = [socket.create_connection(("127.0.0.1", client.port), timeout=60) for _ in range(420)]
    request = b"GET /alive HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    assert raw(client, request).startswith(b"HTTP/1.1 200")
    assert connections[10].recv(1) == b""
    for connection in connections:
        connection.close()
    client.connection.close()


@pytest.mark.parametrize("request_line", [b"GET /alive", b"CONNECT x:1", b"OPTIONS *"])
def test_no_request_switches_the_protocol(client: Any, request_line: bytes) -> None:
    head = b"%s HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n" % request_line
    last = b"GET /alive HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = raw(client, head + last)
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b" 101 " not in answer


def test_every_one_of_twenty_clients_gets_its_own_output(client: Any) -> None:
    wrong: list[str] = []

    def talk(number: int) -> None:
        own = type(client)(client.port, client.folder, client.process)
        for turn in range(10):
            text = f"token_{number}_{turn}"
            if own.output(f"echo {text}") != text:
                wrong.append(text)
        own.connection.close()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_chunked_body_is_understood(client: Any) -> None:
    body = json.dumps({"action": {"action": "nope"}}).encode()
    head = (
        b"POST /execute_action HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    answer = raw(client, head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"is not defined" in answer


def test_alive_and_files_answer_while_a_command_runs_and_commands_wait_their_turn(client: Any) -> None:
    client.output("true")
    answers: list[JSON] = []

    def post(command: str) -> None:
        body = json.dumps({"action": {"action": "run", "args": {"command": command}, "timeout": 20}}).encode()
        head = b"POST /execute_action HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        answers.append(json.loads(raw(client, head % len(body) + body).partition(b"\r\n\r\n")[2]))

    first = "touch began; until [ -e go.txt ]; do sleep 0.02; done; echo one"
    threads = [threading.Thread(target=post, args=(text,)) for text in (first, "[ -e go.txt ] && echo two")]
    threads[0].start()
    while client.act("read", path="began")["observation"] != "read":
        time.sleep(0.02)
    threads[1].start()
    assert client.ask("GET", "/alive")[0] == 200
    assert answers == []
    assert client.act("write", path="go.txt", content="x")["observation"] == "write"
    for thread in threads:
        thread.join()
    assert sorted(answer["content"] for answer in answers) == ["one", "two"]


def test_with_a_unix_socket_and_port_0_there_is_no_tcp(tmp_path: Path) -> None:
    path = tmp_path / "s"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "GRAFTBOX_SOCKET": str(path)}
    words = [sys.executable, "-m", "graftbox.server", "0", "--no-auth", "--working-dir", str(tmp_path)]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            # There is a moment when the socket has a name and does not listen.
            while connection.connect_ex(str(path)):
                assert process.poll() is None
                time.sleep(0.01)
            connection.sendall(b"GET /alive HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Listening on" not in log
    assert not path.exists()


def test_head_and_options_say_what_get_would(client: Any) -> None:
    head = raw(client, b"HEAD /v1/capabilities HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")
    options = raw(client, b"OPTIONS /v1/commands HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert options.startswith(b"HTTP/1.1 204 ")
    assert b": GET, POST, HEAD, OPTIONS\r\n" in options
    refused = raw(client, b"PATCH /v1/commands HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 405 ")


def test_the_key_is_also_a_bearer_token(start: Any) -> None:
    server = start(auth=True, environment={"SESSION_API_KEY": "secret"})
    for value, status in (
        ("Bearer secret", 200),
        ("bearer secret", 200),
        ("Bearer wrong", 403),
        ("secret", 403),
    ):
        assert server.ask("GET", "/v1/capabilities", None, {"Authorization": value})[0] == status
    assert server.ask("GET", "/v1/capabilities?key=secret")[0] == 403


def test_a_page_of_another_origin_can_not_use_a_server_without_a_key(client: Any) -> None:
    own = f"127.0.0.1:{client.port}"
    for origin, status in ((f"http://{own}", 200), ("http://evil.example", 403), ("null", 403)):
        headers = {"Origin": origin, "Host": own}
        assert client.ask("POST", "/v1/run", {"command": "true"}, headers)[0] == status

"""The server as a whole: few files, keys, what it says at its start."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"
Server = tuple[subprocess.Popen[str], int, list[str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts ``python -m graftbox.server 0``; gives the process, its port and what it said until then."""
    started = []

    def go(*arguments: str, before: str = "true", **variables: str) -> Server:
        command = f'{before}; exec "$@"'
        words = [sys.executable, "-m", "graftbox.server", "0", *arguments]
        process = subprocess.Popen(
            ["sh", "-c", command, "sh", *words],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "HOME": str(tmp_path), **variables},
        )
        started.append(process)
        said: list[str] = []
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip("\n"))
            if line.startswith("Listening on"):
                return process, int(line.rsplit(":", 1)[1]), said
        raise AssertionError(said)

    yield go
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def ask(port: int, path: str, key: str | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"X-Session-API-Key": key} if key else {})
    status = connection.getresponse().status
    connection.close()
    return status


def test_with_few_files_it_answers_however_many_connect(serve: Callable[..., Server]) -> None:
    _, port, _ = serve("--no-auth", before="ulimit -n 256")
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
    assert ask(port, "/alive") == 200
    body = json.dumps({"action": {"action": "run", "args": {"command": "echo on"}}})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/execute_action", body)
    assert json.loads(connection.getresponse().read())["content"] == "on"
    connection.close()
    for each in idle:
        each.close()


def test_a_random_key_is_said_once_and_asked_for(serve: Callable[..., Server]) -> None:
    _, port, said = serve()
    (line,) = [line for line in said if "this session's key is" in line]
    assert ask(port, "/v1/openapi.json") == 403
    assert ask(port, "/v1/openapi.json", line.split()[-1]) == 200


def test_a_server_without_a_key_says_what_that_means(serve: Callable[..., Server]) -> None:
    _, port, said = serve("--no-auth", SESSION_API_KEY="unused")
    assert ask(port, "/v1/openapi.json") == 200
    assert any("whoever reaches this server's port can run commands" in line for line in said)


def test_the_log_is_json_where_clients_ask_for_it(serve: Callable[..., Server]) -> None:
    _, _, said = serve(LOCAL_RUNTIME_MODE="1", LOG_JSON="1", SESSION_API_KEY="k")
    lines = [json.loads(line) for line in said if line.startswith("{")]
    (line,) = [line for line in lines if "LOCAL_RUNTIME_MODE has no effect" in line["message"]]
    assert line.keys() == {"timestamp", "level", "message", "logger"}
    assert line["level"] == "WARNING"

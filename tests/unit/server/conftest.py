"""A real server on loopback, with a real tmux and a real bash, and a small client for it."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60
"""How long tests wait for what happens soon, unless the machine is very busy."""
SOURCE = Path(__file__).parents[3] / "src"


class Client:
    """One connection to one server; `ask` returns status and decoded JSON."""

    def __init__(self, port: int, folder: Path, process: subprocess.Popen[str]) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3 * SECONDS)
        self.port, self.folder, self.process = port, folder, process

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self.connection.request(method, path, data, headers or {})
        response = self.connection.getresponse()
        answer = response.read()
        return response.status, json.loads(answer) if answer else None

    def act(self, kind: str, timeout: float | None = 30, **args: object) -> Any:
        action = {"action": kind, "args": args, "timeout": timeout}
        status, answer = self.ask("POST", "/execute_action", {"action": action})
        assert status == 200, answer
        return answer

    def run(self, command: str, timeout: float | None = 30, **args: object) -> Any:
        return self.act("run", timeout, command=command, **args)

    def begin(self, command: str, shown: str, **args: object) -> str:
        """Starts a command that goes on; all that it printed, once ``shown`` is part of it."""
        said = ""
        deadline = time.monotonic() + SECONDS
        while shown not in said:
            answer = self.run(command, timeout=0.2, **args)
            assert answer["extras"]["metadata"]["exit_code"] == -1, answer
            assert time.monotonic() < deadline, said
            said = f"{said}\n{answer['content']}".strip("\n")
            command, args = "", {}
        return said

    def output(self, command: str) -> str:
        # On a busy machine even a command that only says something may be silent for a while first.
        answer = self.run(command, SECONDS, blocking=True)
        assert answer["extras"]["metadata"]["exit_code"] == 0, answer
        content = answer["content"]
        assert isinstance(content, str)
        return content

    def code(self, command: str) -> int:
        code = self.run(command, SECONDS, blocking=True)["extras"]["metadata"]["exit_code"]
        assert isinstance(code, int)
        return code


class Events:
    """A stream of server-sent events, read as they come: kind, id, data. Let go or closed, it hangs up."""

    def __init__(
        self, port: int, method: str, path: str, body: object = None, last: str | None = None
    ) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3 * SECONDS)
        headers = {} if last is None else {"Last-Event-ID": last}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.getheader("content-type") == "text/event-stream"
        self.fields: dict[str, str] = {}

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> tuple[str, str, Any]:
        while line := self.response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                self.fields[name] = value
            elif "event" in self.fields:
                found, self.fields = self.fields, {}
                return found["event"], found.get("id", ""), json.loads(found["data"])
        self.close()
        raise StopIteration

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def alive(pid: int) -> bool:
    """Whether it runs: what nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def runs(shell: int, program: str) -> bool:
    """Whether the shell has started ``program``, given it the terminal and waits for it.

    Before that a Ctrl-C or a signal for the foreground would reach the shell, or nobody.
    """
    words = ["ps", "-o", "comm=,stat=", "--ppid", str(shell)]
    table = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return [program, "S+"] in [line.split() for line in table.splitlines()]


def until(condition: Callable[[], object]) -> None:
    """Waits for something that happens soon."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def free_port() -> int:
    """Below the ports that the system gives to clients, and none that another worker may choose."""
    first = 20000 + 1000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw9")[2:]) % 10)
    while True:
        port = random.randrange(first, first + 1000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


def plain_environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(SOURCE), "LANG": "C.UTF-8"}


Start = Callable[..., Client]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers: ``start(*arguments, environment=…)``, in a fresh working folder, open unless told."""
    clients: list[Client] = []

    def go(
        *arguments: str, environment: dict[str, str] | None = None, auth: bool = False, port: int = 0
    ) -> Client:
        folder = tmp_path_factory.mktemp("work").resolve()
        words = [sys.executable, "-B", "-m", "graftbox.server", str(port)]
        words += ["--working-dir", str(folder)]
        process = subprocess.Popen(
            [*words, *([] if auth else ["--no-auth"]), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**plain_environment(folder), "NO_CHANGE_TIMEOUT_SECONDS": "1", **(environment or {})},
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Listening on"):
                clients.append(Client(int(line.rsplit(":", 1)[1]), folder, process))
                return clients[-1]
        raise AssertionError(f"the server exited with {process.wait()}")

    yield go
    for client in clients:
        client.connection.close()
        if client.process.returncode is None:
            client.process.terminate()
            assert client.process.wait(SECONDS) == 0
        assert client.process.stderr is not None
        client.process.stderr.close()


@pytest.fixture(scope="module")
def client(start: Start) -> Client:
    """A server shared by the tests of one module."""
    return start()

"""The parent of the server in a container: signals, orphans, exit codes, and a server that is killed."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.server.conftest import until

from graftbox.server.host import Host
from graftbox.server.http import Message, Receive, Send
from graftbox.server.inheritance import Inheritance

SOURCE = Path(__file__).parents[3] / "src"

SERVER = """
import os, signal, subprocess, sys, time
from graftbox.server.init import fork_server
starts, _ = fork_server()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"told\\n"))
print(os.getpid(), starts, flush=True)
while True:
    time.sleep(5)
"""


class Tree:
    """An init and its server, which prints its pid and how often it was started before."""

    def __init__(self, code: str = SERVER) -> None:
        self.init = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
        )

    def line(self) -> str:
        assert self.init.stdout is not None
        return self.init.stdout.readline().decode().strip()

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def server(self) -> tuple[int, int]:
        pid, starts = self.line().split()
        return int(pid), int(starts)


@pytest.fixture
def tree() -> Iterator[Tree]:
    found = Tree()
    yield found
    found.init.kill()
    found.init.communicate()


def test_signals_reach_the_server_and_its_exit_code_is_the_containers(tree: Tree) -> None:
    pid, starts = tree.server()
    assert (pid == tree.init.pid, starts) == (False, 0)
    tree.init.send_signal(signal.SIGUSR1)
    assert tree.line() == "told"
    tree.init.terminate()
    assert tree.init.wait(60) == 7


def test_a_server_that_is_killed_is_started_again_but_not_for_ever(tree: Tree) -> None:
    for expected in range(5):
        pid, starts = tree.server()
        assert starts == expected
        os.kill(pid, signal.SIGKILL)
    assert tree.init.wait(60) == 128 + signal.SIGKILL
    assert tree.init.stderr is not None
    assert tree.init.stderr.read().count(b"killed by signal 9; starting it again") == 4


def test_a_server_that_ends_by_itself_is_not_started_again() -> None:
    tree = Tree("import sys; from graftbox.server.init import fork_server; fork_server(); sys.exit(3)")
    assert tree.init.wait(60) == 3
    tree.init.communicate()


def test_a_server_told_to_end_before_it_listens_for_signals_ends() -> None:
    tree = Tree(
        "import time; from graftbox.server.init import fork_server; fork_server(); print(flush=True); "
        "time.sleep(60)"
    )
    tree.line()
    tree.init.terminate()
    assert tree.init.wait(60) == 128 + signal.SIGTERM
    tree.init.communicate()


def test_orphans_are_taken_in_and_leave_no_zombies() -> None:
    code = SERVER.replace(
        "starts, _ = fork_server()",
        "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # a subreaper, as process 1 is by nature
        "starts, _ = fork_server()\n"
        "subprocess.run(['sh', '-c', 'sleep 0.1 & sleep 0.1 &'])",
    )
    tree = Tree(code)
    server, _ = tree.server()
    deadline = time.monotonic() + 60
    while tree.children() != [server]:
        assert time.monotonic() < deadline, tree.children()
        time.sleep(0.02)
    tree.init.terminate()
    assert tree.init.wait(60) == 7
    tree.init.communicate()


MAIN = """
from graftbox.server import init, main
init._PATIENCE = 1000
main.is_first_process = lambda: True
main.main(["0", "--no-auth", "--working-dir", "/"])
"""
KILLS = 20 if os.environ.get("GRAFTBOX_LONG_TESTS") == "1" else 5
CLIENTS = 3


class Caller(threading.Thread):
    """Asks again and again, each time by a new connection, and counts what came of it."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.over = threading.Event()
        self.answered = 0
        self.begun = 0
        self.broken: list[OSError] = []
        self.wrong: list[object] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.wrong += [status for status in [self.ask()] if status != 200]
                self.answered += 1
            except (ConnectionResetError, BrokenPipeError) as error:
                # The server was killed between the question and the answer.
                self.broken.append(error)
            except Exception as error:
                self.wrong.append(error)

    def ask(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.connect()
            self.begun += 1
            connection.request("GET", "/server_info")
            response = connection.getresponse()
            json.loads(response.read())
            return response.status
        finally:
            connection.close()


@pytest.fixture
def listening() -> Iterator[tuple[Tree, int]]:
    tree = Tree(MAIN)
    assert tree.init.stderr is not None
    line = next(line for line in tree.init.stderr if line.startswith(b"Listening on"))
    yield tree, int(line.rsplit(b":", 1)[1])
    tree.init.terminate()
    tree.init.communicate(timeout=60)


def test_who_connects_while_the_server_is_killed_waits_for_the_next(listening: tuple[Tree, int]) -> None:
    tree, port = listening
    callers = [Caller(port) for _ in range(CLIENTS)]
    for caller in callers:
        caller.start()
    killed = set()
    for _ in range(KILLS):
        for caller in callers:
            before = caller.answered
            until(lambda caller=caller, before=before: caller.answered > before + 3)  # type: ignore[misc]
        (pid,) = tree.children()
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    for caller in callers:
        before = caller.answered
        until(lambda caller=caller, before=before: caller.answered > before)  # type: ignore[misc]
        caller.over.set()
    for caller in callers:
        caller.join(60)
        assert caller.wrong == []
        assert len(caller.broken) <= KILLS
        assert caller.begun == caller.answered + len(caller.broken)
    assert len(killed) == KILLS


def test_a_server_that_ends_in_order_turns_clients_away(listening: tuple[Tree, int]) -> None:
    tree, port = listening
    tree.init.terminate()
    assert tree.init.wait(60) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_socket_in_the_file_system_is_handed_on_too(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    inheritance = Inheritance()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen(100)
        inheritance.leave(killed)

    async def answered() -> list[bytes]:
        waiting = [await asyncio.open_unix_connection(path) for _ in range(20)]
        for _, writer in waiting:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        host = Host(hello)
        await host.listen("127.0.0.1", None, path, inheritance)
        found = [(await reader.read()).rpartition(b"\r\n")[2] for reader, _ in waiting]
        for _, writer in waiting:
            writer.close()
        await host.close()
        return found

    assert asyncio.run(answered()) == [b"hello"] * 20
    # It is there for a third one too.
    for each in (*inheritance.take(), inheritance.reading, inheritance.writing):
        assert each.fileno() >= 0
        each.close()


async def hello(scope: Message, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})

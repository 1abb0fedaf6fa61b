"""The parent of the server in a container: signals, orphans, exit codes, and a server that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"

SERVER = """
import os, signal, subprocess, sys, time
from graftbox.server.init import fork_server
starts = fork_server()
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
        "starts = fork_server()",
        "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # a subreaper, as process 1 is by nature
        "starts = fork_server()\n"
        "subprocess.run(['sh', '-c', 'sleep 0.1 & sleep 0.1 &'])",
    )
    tree = Tree(code)
    server, _ = tree.server()
    deadline = time.monotonic() + 60
    children = Path(f"/proc/{tree.init.pid}/task/{tree.init.pid}/children")
    while children.read_text().split() != [str(server)]:
        assert time.monotonic() < deadline, children.read_text()
        time.sleep(0.02)
    tree.init.terminate()
    assert tree.init.wait(60) == 7
    tree.init.communicate()

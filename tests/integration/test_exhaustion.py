"""A sandbox whose disk or processes are used up still answers, and says what is wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import missing, program, shown_below_tmp

SOURCE = Path(__file__).parents[2] / "src"
Ask = Callable[..., tuple[int, Any]]
Start = Callable[..., Ask]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server in a namespace whose ``/tmp``, the only writable folder, holds 4 MiB."""
    processes = []

    def go(*prefix: str) -> Ask:
        command = [*prefix, program("bwrap", "bubblewrap"), "--ro-bind", "/", "/"]
        command += ["--dev", "/dev", "--proc", "/proc"]
        command += [
            "--size",
            str(4 * 1024 * 1024),
            "--tmpfs",
            "/tmp",
            "--size",
            "4096",
            "--tmpfs",
            "/dev/shm",
        ]
        command += shown_below_tmp()
        command += ["--unshare-user", "--uid", "1000", "--unshare-pid", "--die-with-parent", "--new-session"]
        command += [sys.executable, "-B", "-m", "graftbox.server", "0", "--no-auth"]
        environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONPATH": str(SOURCE)}
        process = subprocess.Popen(
            [*command, "--working-dir", "/tmp"], env=environment, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stderr is not None
        port = next(line for line in process.stderr if line.startswith("Listening")).rsplit(":", 1)[1]

        def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = response.read()
            connection.close()
            return response.status, json.loads(answer) if answer else None

        return ask

    yield go
    for process in processes:
        process.terminate()
        process.communicate(timeout=60)


def test_a_full_disk(start: Start) -> None:
    ask = start()
    ask("POST", "/v1/run", {"command": "head -c 5000000 /dev/zero > /tmp/fill; true"})
    assert ask("GET", "/alive") == (200, {"status": "ok"})
    problems = ask("GET", "/v1/capabilities")[1]["problems"]
    assert any("disk of /tmp is full" in problem for problem in problems)
    # Output too long for memory keeps its end, and says that something is missing.
    answer = ask("POST", "/v1/run", {"command": "seq 1 100000"})[1]
    assert answer["exit_code"] == 0
    assert answer["truncated"]
    assert answer["stdout"].endswith("\n99999\n100000\n")
    assert "No space" in ask("GET", f"/v1/commands/{answer['id']}")[1]["stdout"]["fault"]
    assert ask("POST", "/v1/run", {"command": "rm /tmp/fill"})[1]["exit_code"] == 0
    assert ask("POST", "/v1/run", {"command": "seq 1 100000"})[1]["truncated"] is False


@pytest.fixture
def few_processes() -> Iterator[list[str]]:
    """The beginning of a command that may not have more than 24 processes and threads."""
    if os.geteuid() != 0:
        yield [program("prlimit", "util-linux"), "--nproc=24"]
        return
    # The limit of processes per user does not bind root: a control group does.
    version_1 = Path("/sys/fs/cgroup/pids")
    group = (version_1 if version_1.is_dir() else version_1.parent) / f"graftbox-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("24")
    except OSError as error:
        missing(f"a control group for processes that root may make ({error})")
    yield ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


def test_no_more_processes(few_processes: list[str], start: Start) -> None:
    ask = start(*few_processes)
    for _ in range(40):
        status, answer = ask("POST", "/v1/commands", {"argv": ["sleep", "60"]})
        if status != 201:
            break
    assert status == 503, answer
    assert "processes" in answer["detail"] or "temporarily" in answer["detail"]
    assert ask("GET", "/alive") == (200, {"status": "ok"})
    status, found = ask("GET", "/v1/capabilities")
    assert status == 200
    assert any("processes are running" in problem for problem in found["problems"])
    for command in ask("GET", "/v1/commands")[1]["commands"]:
        assert ask("DELETE", f"/v1/commands/{command['id']}")[0] == 204
    assert ask("POST", "/v1/run", {"command": "echo works again"})[1]["stdout"] == "works again\n"

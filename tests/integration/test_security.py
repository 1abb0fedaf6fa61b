"""What a program in the sandbox can learn of the server and do to it, in real containers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.bases import reference
from tests.integration.conftest import Docker

from graftbox.sandbox.client import Client

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
IMAGE = "graft-test/security:1"
KEY = "the-key-of-this-test"
Start = Callable[..., Client]

SERVER = "pgrep -f '[o]penhands/bin/action-execution-server' | tail -1"
CONNECT = """
import glob, socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print('connected', path)
    except OSError as error:
        print(error.strerror)
"""

HOG = """
import os, time
os.setpgid(0, 0)
try:
    while os.fork():
        pass
except OSError:
    open('/tmp/full', 'w').close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def image(dockerd: Docker) -> Iterator[str]:
    command = [GRAFTBOX, "graft", reference("workshop"), f"docker-daemon:{IMAGE}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    yield IMAGE
    dockerd("rmi", "--force", IMAGE)


@pytest.fixture
def start(image: str, dockerd: Docker) -> Iterator[Start]:
    """Starts containers: ``start(*options_of_docker_run, server=(…))``."""
    containers: list[str] = []
    clients: list[Client] = []

    def go(*options: str, server: tuple[str, ...] = ()) -> Client:
        words = ["-d", "-e", f"SESSION_API_KEY={KEY}", "-p", "127.0.0.1::60000", *options, image, *server]
        containers.append(dockerd("run", *words))
        port = dockerd("port", containers[-1], "60000").rpartition(":")[2]
        clients.append(Client(f"http://127.0.0.1:{port}", KEY))
        clients[-1].wait_until_alive(60)
        return clients[-1]

    yield go
    for client in clients:
        client.close()
    dockerd("rm", "--force", *containers)


def said(client: Client, command: str) -> str:
    return client.run(command, timeout=60).output


@pytest.mark.parametrize("user", ["root", "12345"])
def test_a_program_of_the_servers_own_user_does_not_find_the_key(start: Start, user: str) -> None:
    client = start("--user", user)
    assert said(client, f"tr '\\0' '\\n' </proc/self/environ | grep -c KEY; {SERVER}").splitlines()[0] == "0"
    found = said(client, f"grep -als '[t]{KEY[1:]}' /proc/*/environ /proc/*/cmdline 2>/dev/null")
    assert found == ""
    for what in ("environ", "maps", "mem"):
        for pid in ("1", f"$({SERVER})"):
            assert "ermission denied" in said(client, f"cat /proc/{pid}/{what}"), (pid, what)
    assert "ermission denied" in said(client, "cat < /proc/1/fd/2"), "the container's log"


def test_a_program_that_kills_the_server_has_it_back_with_its_shell(start: Start) -> None:
    client = start("--user", "12345")
    assert said(client, "left=over; cd /tmp; echo ready") == "ready"
    old = said(client, SERVER)
    client.run(f"(sleep 0.3; kill -9 {old}) & true", timeout=10)
    deadline = time.monotonic() + 60
    while True:
        try:
            new = said(client, SERVER)
            if new != old:
                break
        except Exception:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert said(client, "echo $left; pwd") == "over\n/tmp"
    said(client, "kill -9 1")
    assert said(client, "echo on") == "on", "process 1 can't be killed from inside"


def test_another_user_can_not_reach_what_is_the_servers(start: Start) -> None:
    client = start(server=("--username", "agent", "--user-id", "1234", "--working-dir", "/work"))
    assert said(client, "id -un; id -u; echo $HOME $USER; pwd; stat -c %U:%G .") == (
        "agent\n1234\n/home/agent agent\n/work\nagent:root"
    )
    client.write("/work/file", "text")
    assert said(client, "stat -c %U file") == "agent"
    server = said(client, SERVER)
    assert "not permitted" in said(client, f"kill -9 {server}")
    for what in ("environ", "maps", "mem"):
        assert "ermission denied" in said(client, f"cat /proc/{server}/{what}")
    mine = "find /tmp /dev/shm /run -name '.graftbox-*' -user root"
    assert said(client, mine), "the server has a folder of its own"
    assert "ermission denied" in said(client, f"ls $({mine})")
    # In u1234 are the sockets of tmux and of the programs that keep this user's shells.
    sockets = "awk '$8 ~ /graftbox/ && $8 !~ /u1234/ {print $8}' /proc/net/unix"
    assert "connected" not in said(client, f'/openhands/bin/oh-python -c "{CONNECT}" $({sockets}) /')
    assert "denied" in said(client, "touch /openhands/x") or "ead-only" in said(client, "touch /openhands/x")
    assert said(client, "sudo -n id -u") == "0", "a user that the server made may use the image's sudo"


def test_a_sandbox_out_of_processes_still_answers(start: Start) -> None:
    client = start("--pids-limit", "60", "--user", "12345")
    client.write("/tmp/hog.py", HOG)
    # Without a program: there may be no process left for one.
    client.run("python3 /tmp/hog.py & echo $! > /tmp/hog; until [ -e /tmp/full ]; do :; done", timeout=60)
    assert client.alive()
    assert client.server_info()["uptime"] > 0
    assert said(client, "echo $((1 + 1))").splitlines()[-1] == "2"
    said(client, "kill -9 -$(< /tmp/hog)")
    assert said(client, "until ls -d /tmp; do sleep 0.1; done 2>/dev/null").splitlines()[-1] == "/tmp"


def test_a_sandbox_out_of_memory_loses_the_agents_program_and_not_the_server(start: Start) -> None:
    client = start("--memory", "150m", "--memory-swap", "150m")
    server = said(client, SERVER)
    outcome = client.run("python3 -c 'x = b\"x\" * 10**9'", timeout=60)
    assert outcome.exit_code == 137, outcome
    assert said(client, SERVER) == server
    assert said(client, "echo on") == "on"

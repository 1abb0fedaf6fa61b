"""Background commands: how fast output gets through the pipe, and how long a command takes in one request.

python -m benchmarks.jobs
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, table

SOURCE = Path(__file__).parent.parent / "src"
SIZE = 1024 * 1024 * 1024
RUNS = 5
COMMANDS = 300
READ = 1024 * 1024


def figures(port: int) -> list[Figure]:
    """Of the server that listens on ``port`` of this machine, open to all."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        followed = [_followed(connection) for _ in range(RUNS)]
        kept = [_kept(connection) for _ in range(RUNS)]
        bare = [_bare() for _ in range(RUNS)]
        argv = [_run(connection, {"argv": ["true"]}) * 1000 for _ in range(COMMANDS)]
        shell = [_run(connection, {"command": "true"}) * 1000 for _ in range(COMMANDS)]
        alone = [_alone() * 1000 for _ in range(COMMANDS)]
    return [
        Figure("output of a command, to a client that follows it", "MB/s", tuple(followed)),
        Figure("output of a command, to its log", "MB/s", tuple(kept)),
        Figure("the same command's output to a reader without a server", "MB/s", tuple(bare)),
        Figure("`true` by `POST /v1/run`, without a shell", "ms", tuple(argv)),
        Figure("`true` by `POST /v1/run`, with bash", "ms", tuple(shell)),
        Figure("`true` by `subprocess.run`, without a server", "ms", tuple(alone)),
    ]


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> Any:
    connection.request(method, path, None if body is None else json.dumps(body))
    response = connection.getresponse()
    answer = response.read()
    assert response.status < 300, answer
    return json.loads(answer) if answer else None


def _speed(start: float) -> float:
    return SIZE / 1e6 / (time.perf_counter() - start)


def _command() -> dict[str, list[str]]:
    return {"argv": ["head", "-c", str(SIZE), "/dev/zero"]}


def _followed(connection: http.client.HTTPConnection) -> float:
    start = time.perf_counter()
    name = _ask(connection, "POST", "/v1/commands", _command())["id"]
    connection.request("GET", f"/v1/commands/{name}/stdout?format=raw&follow=true")
    response = connection.getresponse()
    size, room = 0, memoryview(bytearray(READ))
    while got := response.readinto(room):
        size += got
    speed = _speed(start)
    assert size == SIZE
    _ask(connection, "DELETE", f"/v1/commands/{name}")
    return speed


def _kept(connection: http.client.HTTPConnection) -> float:
    start = time.perf_counter()
    answer = _ask(connection, "POST", "/v1/run", {**_command(), "max_output": 10})
    speed = _speed(start)
    assert answer["exit_code"] == 0
    _ask(connection, "DELETE", f"/v1/commands/{answer['id']}")
    return speed


def _bare() -> float:
    start = time.perf_counter()
    with subprocess.Popen(_command()["argv"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while process.stdout.read(READ):
            pass
    return _speed(start)


def _run(connection: http.client.HTTPConnection, body: object) -> float:
    start = time.perf_counter()
    assert _ask(connection, "POST", "/v1/run", body)["exit_code"] == 0
    return time.perf_counter() - start


def _alone() -> float:
    start = time.perf_counter()
    subprocess.run(["true"], check=True, capture_output=True)
    return time.perf_counter() - start


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """The port of a server of this source tree."""
    with tempfile.TemporaryDirectory(prefix="graftbox-bench-") as folder:
        words = [sys.executable, "-m", "graftbox.server", "0", "--no-auth", "--working-dir", folder]
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": str(SOURCE)}
        process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        port = next(line for line in process.stderr if line.startswith("Listening")).rsplit(":", 1)[1]
        try:
            yield int(port)
        finally:
            process.terminate()
            process.communicate()


if __name__ == "__main__":
    with serving() as number:
        print(table("Background commands", figures(number)))

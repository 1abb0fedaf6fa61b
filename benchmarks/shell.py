"""The shell: how long a command takes, how fast output comes through the terminal, and whether all does."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import Figure
from benchmarks.server import UnixConnection, running

RUNS, BATCHES = 200, 10
MEGABYTES = 200
TOKENS = 10_000
CHUNK = 1 << 20
ALIVE_SECONDS = 10.0


def figures(tree: Path) -> list[Figure]:
    """``tree`` holds the unpacked ``openhands/``. Raises `AssertionError` when a byte is missing or wrong."""
    with running(tree) as (path, _), contextlib.closing(UnixConnection(path)) as connection:
        batches = [_commands(connection) for _ in range(BATCHES)]
        throughput = [_throughput(connection) for _ in range(3)]
        alive = _alive_during_flood(connection)
        return [
            Figure("`true` over HTTP", "ms", tuple(s * 1000 for batch in batches for s in batch), 2),
            Figure(
                "`true` over HTTP, 99th of 100", "ms", tuple(_late(batch) * 1000 for batch in batches), 10
            ),
            Figure(
                f"{MEGABYTES} MB of one command through the terminal, streamed, exact by hash",
                "MB/s",
                tuple(throughput),
                10,
                at_least=True,
            ),
            Figure("`/alive` while a shell runs `yes`, 99th of 100", "ms", (_late(alive) * 1000,), 20),
            Figure(
                f"wrong answers of {TOKENS} `echo tok_i`, both cores loaded", "", (_wrong(connection),), 0
            ),
        ]


def _late(samples: Sequence[float]) -> float:
    return sorted(samples)[len(samples) * 99 // 100]


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status < 300, answer
    return answer


def _run(connection: http.client.HTTPConnection, command: str) -> str:
    action = {"action": "run", "args": {"command": command}, "timeout": 30}
    answer = json.loads(_ask(connection, "POST", "/execute_action", {"action": action}))
    assert answer["extras"]["metadata"]["exit_code"] == 0, answer
    return str(answer["content"])


def _commands(connection: http.client.HTTPConnection) -> list[float]:
    samples = []
    for _ in range(RUNS):
        start = time.perf_counter()
        _run(connection, "true")
        samples.append(time.perf_counter() - start)
    return samples


def _throughput(connection: http.client.HTTPConnection) -> float:
    """MB/s of what the program wrote; the reader follows the session's output over HTTP."""
    line = "0123456789abcdef" * 5
    count = MEGABYTES * 100_000 // (len(line) + 1) * 10
    expected = hashlib.sha256((line + "\r\n").encode() * count).digest()
    size = (len(line) + 2) * count
    command = f"for ((i = 0; i < 10; i++)); do yes {line} | head -n {count // 10}; done"
    start = time.perf_counter()
    begun = json.loads(_ask(connection, "POST", "/v1/sessions/main/run", {"command": command, "wait": 0}))
    position, end, found = begun["start"], begun["start"] + size, hashlib.sha256()
    while position < end:
        path = f"/v1/sessions/main/output?offset={position}&limit={CHUNK}&wait=10&format=raw"
        data = _ask(connection, "GET", path)[: end - position]
        assert data, "the output ended too early"
        found.update(data)
        position += len(data)
    seconds = time.perf_counter() - start
    assert found.digest() == expected, "the output was not exact"
    _ask(connection, "POST", "/execute_action", {"action": {"action": "run", "args": {"command": ""}}})
    return count * (len(line) + 1) / 1e6 / seconds


def _alive_during_flood(connection: http.client.HTTPConnection) -> list[float]:
    _ask(connection, "POST", "/v1/sessions", {"name": "flood"})
    _ask(connection, "POST", "/v1/sessions/flood/run", {"command": "yes", "wait": 0})
    samples = []
    deadline = time.perf_counter() + ALIVE_SECONDS
    while (start := time.perf_counter()) < deadline:
        _ask(connection, "GET", "/alive")
        samples.append(time.perf_counter() - start)
        time.sleep(0.01)
    _ask(connection, "DELETE", "/v1/sessions/flood")
    return samples


def _wrong(connection: http.client.HTTPConnection) -> float:
    with _load(2):
        return float(sum(_run(connection, f"echo tok_{i}") != f"tok_{i}" for i in range(TOKENS)))


@contextlib.contextmanager
def _load(count: int) -> Iterator[None]:
    """Processes that compute for nothing."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()

"""Files over HTTP: small ones as an agent reads and writes them, and one of a gigabyte in both directions."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, interleaved, timed

RUNS = 300
SMALL = 10_000
LARGE = 1_000_000_000
MANY = 5_000
PIECE = 1_000_000
MEGABYTE = 1_000_000
CONTENT = "/v1/files/content?path="
# Lines of text, since the editor and the model's actions work on such.
TEXT = ("x" * 79 + "\n") * (SMALL // 80)


class Connection(http.client.HTTPConnection):
    """One connection to a server behind a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))

    def ask(self, method: str, path: str, body: Any = None, length: int | None = None) -> bytes:
        headers = {} if length is None else {"Content-Length": str(length)}
        self.request(method, path, body, headers)
        response = self.getresponse()
        data = response.read()
        assert response.status in (200, 201), data
        return data

    def act(self, action: str, **arguments: Any) -> str:
        body = json.dumps({"action": {"action": action, "args": arguments}})
        answer = json.loads(self.ask("POST", "/execute_action", body))
        assert answer["observation"] == action, answer
        return str(answer["content"])

    def peak(self) -> float:
        """MB of memory that the server has had resident at most."""
        found = re.search(r"VmHWM:\s+(\d+) kB", self.act("read", path="/proc/self/status"))
        assert found
        return int(found[1]) * 1024 / MEGABYTE


def figures(tree: Path) -> list[Figure]:
    """``tree`` holds the unpacked ``openhands/``. Files are on the disk that holds the temporary folder."""
    with _running(tree) as (server, folder):
        return [*_small(server, folder), *_large(server, folder), *_many(server, folder)]


def _small(server: Connection, folder: Path) -> list[Figure]:
    path = str(folder / "small.txt")
    data = TEXT.encode()
    steps: dict[str, Callable[[], object]] = {
        f"action `write`, {SMALL // 1000} kB": lambda: server.act("write", path=path, content=TEXT),
        f"action `read`, {SMALL // 1000} kB": lambda: server.act("read", path=path),
        f"`PUT /v1/files/content`, {SMALL // 1000} kB": lambda: server.ask("PUT", CONTENT + path, data),
        f"`GET /v1/files/content`, {SMALL // 1000} kB": lambda: server.ask("GET", CONTENT + path),
    }
    samples = interleaved([partial(_milliseconds, step) for step in steps.values()], RUNS, warmup=5)
    return [Figure(what, "ms", each, 2) for what, each in zip(steps, samples, strict=True)]


def _milliseconds(step: Callable[[], object]) -> float:
    return timed(step) * 1000


def _large(server: Connection, folder: Path) -> list[Figure]:
    path = CONTENT + str(folder / "large.bin")
    piece = bytes(range(250)) * (PIECE // 250)
    before, rates = server.peak(), {}
    start = time.perf_counter()
    server.ask("PUT", path, (piece for _ in range(LARGE // PIECE)), LARGE)
    rates["upload"] = LARGE / MEGABYTE / (time.perf_counter() - start)
    start = time.perf_counter()
    server.request("GET", path)
    response = server.getresponse()
    received = 0
    while data := response.read(PIECE):
        received += len(data)
    assert received == LARGE
    rates["download"] = LARGE / MEGABYTE / (time.perf_counter() - start)
    return [
        *(Figure(f"{LARGE // PIECE / 1000:g} GB {what}", "MB/s", (rate,)) for what, rate in rates.items()),
        Figure("server's peak memory, more by", "MB", (server.peak() - before,)),
    ]


def _many(server: Connection, folder: Path) -> list[Figure]:
    source, archive = folder / "many", "/v1/files/archive?format=tar&path="
    for number in range(MANY):
        path = source / str(number % 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT)
    data = b""

    def down() -> None:
        nonlocal data
        data = server.ask("GET", archive + str(source))

    def up() -> None:
        server.ask("PUT", archive + str(folder / "copy"), data)

    steps = {"as a tar archive out of the sandbox": down, "and into it": up}
    samples = interleaved([partial(timed, step) for step in steps.values()], 5)
    what = f"{MANY} files of {SMALL // 1000} kB"
    return [Figure(f"{what} {how}", "s", each) for how, each in zip(steps, samples, strict=True)]


@contextlib.contextmanager
def _running(tree: Path) -> Iterator[tuple[Connection, Path]]:
    """A server of the bundle in a mount namespace of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {"PATH": "/usr/bin:/bin", "HOME": name, "GRAFTBOX_NO_AUTH": "1", "GRAFTBOX_PORT": "0"}
        environment |= {"GRAFTBOX_SOCKET": str(folder / "socket")}
        command = ["bwrap", "--dev-bind", "/", "/", "--proc", "/proc", "--die-with-parent", "--unshare-pid"]
        command += ["--as-pid-1", "--ro-bind", str(tree / "openhands"), "/openhands"]
        command += ["/openhands/bin/action-execution-server", "--working-dir", name]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            server = _connected(folder / "socket", process)
            yield server, folder
            server.close()
        finally:
            process.terminate()
            process.wait(30)


def _connected(path: Path, process: subprocess.Popen[bytes]) -> Connection:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            return Connection(path)
        time.sleep(0.005)
    raise AssertionError("the server did not get alive")

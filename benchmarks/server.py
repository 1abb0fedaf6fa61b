"""The server: how soon it answers, how long a command takes, and what it adds to `docker run`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, interleaved, timed

STARTS = 15
RUNS = 500
CONTAINERS = 9
SERVER = ["/openhands/bin/action-execution-server"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def figures(tree: Path, core: Path, image: str) -> list[Figure]:
    """``tree`` holds the unpacked ``openhands/``, ``core`` that of the component core alone; ``image`` is a
    base that the running Docker daemon has.
    """
    core_alone, all_components = interleaved(
        [lambda: _alive_after_exec(core), lambda: _alive_after_exec(tree)], STARTS
    )
    bare, sandbox = interleaved(
        [
            lambda: timed(lambda: subprocess.run(["docker", "run", "--rm", image, "/bin/true"], check=True)),
            lambda: _container_until_alive(tree, image),
        ],
        CONTAINERS,
    )
    return [
        Figure("server alive after exec, page cache warm", "s", all_components, 0.25),
        Figure("the same, of the component core alone", "s", core_alone),
        Figure("`true` over HTTP", "ms", tuple(s * 1000 for s in _command_times(tree)), 3),
        Figure("`docker run` of the bare base, to exit", "s", bare),
        Figure("`docker run` with the bundle mounted, to alive", "s", sandbox),
        Figure(
            "difference of the two, pair by pair",
            "s",
            tuple(with_bundle - without for with_bundle, without in zip(sandbox, bare, strict=True)),
            0.5,
        ),
    ]


@contextlib.contextmanager
def running(tree: Path) -> Iterator[tuple[Path, float]]:
    """The server of the tree, in a mount namespace of its own, and when it was started."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "GRAFTBOX_NO_AUTH": "1"}
        environment |= {"GRAFTBOX_SOCKET": str(path), "GRAFTBOX_PORT": "0"}
        # A PID namespace of its own, so that nothing outlives the measurement.
        command = [
            "bwrap",
            "--dev-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--die-with-parent",
            "--unshare-pid",
            "--as-pid-1",
        ]
        command += ["--ro-bind", str(tree / "openhands"), "/openhands"]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, *SERVER, "--working-dir", folder], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            _until_alive(path)
            yield path, start
        finally:
            process.terminate()
            process.wait()


def _until_alive(path: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), contextlib.closing(UnixConnection(path)) as connection:
            connection.request("GET", "/alive")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.002)
    raise TimeoutError("the server did not get alive within 30 s")


def _alive_after_exec(tree: Path) -> float:
    with running(tree) as (_, start):
        return time.perf_counter() - start


def _command_times(tree: Path) -> list[float]:
    body = json.dumps({"action": {"action": "run", "args": {"command": "true"}, "timeout": 10}})
    samples = []
    with running(tree) as (path, _), contextlib.closing(UnixConnection(path)) as connection:
        for number in range(RUNS + 10):
            start = time.perf_counter()
            connection.request("POST", "/execute_action", body, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            if number >= 10:
                samples.append(time.perf_counter() - start)
            assert answer["extras"]["metadata"]["exit_code"] == 0, answer
    return samples


def _container_until_alive(tree: Path, image: str) -> float:
    name = f"graftbox-bench-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder:
        command = ["docker", "run", "--rm", "-d", "--name", name, "-v", f"{tree}/openhands:/openhands:ro"]
        command += ["-v", f"{folder}:/socket", "-e", "GRAFTBOX_SOCKET=/socket/s", "-e", "GRAFTBOX_NO_AUTH=1"]
        command += ["--entrypoint", SERVER[0], image, *SERVER[1:]]
        start = time.perf_counter()
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            _until_alive(Path(folder) / "s")
            return time.perf_counter() - start
        finally:
            subprocess.run(["docker", "rm", "-f", name], check=True, stdout=subprocess.DEVNULL)

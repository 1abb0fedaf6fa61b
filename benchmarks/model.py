"""Our server beside the model's, the OpenHands action execution server from its published package.

Both run in a mount and process namespace of their own with a fresh home, without a browser, with the Jupyter
plugin, and get the same requests in turn. The model's package has to be in the virtual environment that
tests/integration/openhands/install.sh makes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure
from benchmarks.server import SERVER, UnixConnection

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_TESTS = Path(os.environ.get("GRAFTBOX_TEST_CACHE") or _CACHE / "graftbox-tests")
ENVIRONMENT = _TESTS / "openhands-0.62.0/venv"
STARTS = 3
STEPS = {
    # What is asked for, how often of ours and of the model, and the target for ours in milliseconds.
    "`true`": ("run", {"command": "true"}, 200, 12, 2),
    "1000 lines": ("run", {"command": "seq 1 1000"}, 100, 12, None),
    "IPython `1+1`": ("run_ipython", {"code": "1+1"}, 200, 40, 5),
    "write 10 kB": ("write", {"path": "ten.txt", "content": "0123456789abcde\n" * 640}, 200, 40, 2),
    "read 10 kB": ("read", {"path": "ten.txt"}, 200, 40, 2),
}


@dataclass(frozen=True)
class Running:
    """A started server: how to connect, the seconds until it was alive, and its outer process."""

    connect: Callable[[], http.client.HTTPConnection]
    alive: float
    process: subprocess.Popen[bytes]

    def act(self, connection: http.client.HTTPConnection, kind: str, args: dict[str, Any]) -> float:
        """Seconds that one action takes; raises when its answer is no success."""
        body = json.dumps({"action": {"action": kind, "args": args, "timeout": 60}})
        start = time.perf_counter()
        connection.request("POST", "/execute_action", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        seconds = time.perf_counter() - start
        if response.status != 200 or answer["observation"] == "error":
            raise RuntimeError(f"{kind} {args} failed: {answer}")
        return seconds

    def memory(self) -> float:
        """Resident memory of all its processes together, in MB."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        space = _space(Path(f"/proc/{children[0]}"))
        return sum(_resident(folder) for folder in Path("/proc").glob("[0-9]*") if _space(folder) == space)


def figures(tree: Path, environment: Path) -> list[Figure]:
    """``tree`` holds the unpacked ``openhands/``; ``environment`` is the virtual one of the model."""
    found = [_ours(tree), _model(environment)]
    rows = [
        Figure("alive after exec: ours", "s", found[0].alive, 0.25),
        Figure("alive after exec: model", "s", found[1].alive),
    ]
    for name, (*_, target) in STEPS.items():
        rows.append(Figure(f"{name}: ours", "ms", found[0].steps[name], target))
        rows.append(Figure(f"{name}: model", "ms", found[1].steps[name]))
    rows.append(Figure("first IPython result after exec: ours", "s", found[0].first_cell, 1.5))
    rows.append(Figure("first IPython result after exec: model", "s", found[1].first_cell))
    rows.append(Figure("memory, idle, before the first cell: ours", "MB", found[0].idle, 60))
    rows.append(Figure("memory, idle, with a kernel: ours", "MB", found[0].with_kernel, 130))
    rows.append(Figure("memory, idle, with a kernel: model", "MB", found[1].with_kernel))
    return rows


@dataclass
class Measured:
    """Samples of one of the two servers; steps in milliseconds."""

    alive: tuple[float, ...]
    first_cell: tuple[float, ...]
    idle: tuple[float, ...]
    with_kernel: tuple[float, ...]
    steps: dict[str, tuple[float, ...]]


def _ours(tree: Path) -> Measured:
    return _measure(lambda: _start(tree, [*SERVER], {"GRAFTBOX_NO_AUTH": "1"}), 2)


def _model(environment: Path) -> Measured:
    more = {"SU_TO_USER": "false", "USER": "root", "LOCAL_RUNTIME_MODE": "1"}
    more["PATH"] = f"{environment / 'bin'}:{os.environ['PATH']}"
    words = [str(environment / "bin/python"), "-u", "-m", "openhands.runtime.action_execution_server", "PORT"]
    words += ["--working-dir", "WORK", "--plugins", "jupyter", "--username", "root", "--user-id", "0"]
    return _measure(lambda: _start(None, [*words, "--no-enable-browser"], more), 3)


def _measure(start: Callable[[], contextlib.AbstractContextManager[Running]], column: int) -> Measured:
    alive, first, idle, loaded = [], [], [], []
    steps: dict[str, tuple[float, ...]] = {}
    for number in range(STARTS):
        with start() as running, contextlib.closing(running.connect()) as connection:
            alive.append(running.alive)
            running.act(connection, "run", {"command": "true"})
            idle.append(running.memory())
            first.append(running.alive + running.act(connection, "run_ipython", {"code": "print(1)"}))
            loaded.append(running.memory())
            if number == STARTS - 1:
                for name, (kind, args, *counts) in STEPS.items():
                    count = counts[column - 2]
                    assert count is not None
                    times = [running.act(connection, kind, args) for _ in range(count)]
                    steps[name] = tuple(seconds * 1000 for seconds in times)
    return Measured(tuple(alive), tuple(first), tuple(idle), tuple(loaded), steps)


@contextlib.contextmanager
def _start(tree: Path | None, words: list[str], more: dict[str, str]) -> Iterator[Running]:
    """The server in a process namespace of its own: nothing of it outlives the measurement."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        port = _free_port()
        words = [{"PORT": str(port), "WORK": str(work)}.get(word, word) for word in words]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "TMUX_TMPDIR": folder,
            "LANG": "C.UTF-8",
            "OPENHANDS_REPO_PATH": folder,
            **more,
        }
        command = ["bwrap", "--dev-bind", "/", "/", "--proc", "/proc", "--die-with-parent", "--unshare-pid"]
        command += ["--as-pid-1", "--chdir", str(work)]
        connect: Callable[[], http.client.HTTPConnection]
        if tree is None:
            connect = partial(http.client.HTTPConnection, "127.0.0.1", port)
        else:
            sock = Path(folder) / "socket"
            environment |= {"GRAFTBOX_SOCKET": str(sock), "GRAFTBOX_PORT": "0"}
            command += ["--ro-bind", str(tree / "openhands"), "/openhands"]
            connect = partial(UnixConnection, sock)
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _until_alive(connect)
            yield Running(connect, time.perf_counter() - began, process)
        finally:
            process.kill()
            process.wait()


def _until_alive(connect: Callable[[], http.client.HTTPConnection]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), contextlib.closing(connect()) as connection:
            connection.request("GET", "/alive")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.005)
    raise TimeoutError("the server did not get alive within 120 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _resident(folder: Path) -> float:
    with contextlib.suppress(OSError):
        for line in (folder / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
    return 0.0


def _space(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return str((folder / "ns/pid").readlink())
    return ""

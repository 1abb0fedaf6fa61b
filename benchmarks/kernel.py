"""Cells: how soon the first one is answered, how long a trivial one takes, and what the kernel weighs.

python -m benchmarks.kernel measures these alone.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, table
from benchmarks.server import UnixConnection, running
from graftbox.bundle import build, tree
from graftbox.store import Store

STARTS = 9
RUNS = 500
WEIGHINGS = 5
_SETTLING = 1.0


def figures(unpacked: Path) -> list[Figure]:
    """``unpacked`` holds the tree ``openhands/`` with the component jupyter."""
    cells = sorted(_cell_times(unpacked))
    without, with_kernel = zip(*(_weights(unpacked) for _ in range(WEIGHINGS)), strict=True)
    return [
        Figure("first cell's result after exec of the server", "s", _first_results(unpacked), 1.5),
        Figure("`1+1` over HTTP", "ms", tuple(cells), 5),
        Figure("`1+1` over HTTP, the slowest 1 %", "ms", tuple(cells[-RUNS // 100 :])),
        Figure("resident memory of the whole sandbox, without kernel", "MB", without, 60),
        Figure("the same with an idle kernel", "MB", with_kernel, 130),
    ]


def _act(connection: UnixConnection, kind: str, **args: object) -> str:
    action = {"action": {"action": kind, "args": args, "timeout": 60}}
    connection.request("POST", "/execute_action", json.dumps(action))
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    assert answer["success"], answer
    content: str = answer["content"]
    return content


def _first_results(unpacked: Path) -> tuple[float, ...]:
    samples = []
    for _ in range(STARTS + 1):
        with running(unpacked) as (path, start), contextlib.closing(UnixConnection(path)) as connection:
            assert _act(connection, "run_ipython", code="1+1", include_extra=False) == "2"
            samples.append(time.perf_counter() - start)
    return tuple(samples[1:])


def _cell_times(unpacked: Path) -> list[float]:
    """Milliseconds."""
    samples = []
    with running(unpacked) as (path, _), contextlib.closing(UnixConnection(path)) as connection:
        for number in range(RUNS + 10):
            start = time.perf_counter()
            assert _act(connection, "run_ipython", code="1+1", include_extra=False) == "2"
            if number >= 10:
                samples.append((time.perf_counter() - start) * 1000)
    return samples


def _weights(unpacked: Path) -> tuple[float, float]:
    """Megabytes of all processes of a sandbox, before its first cell and after."""
    with running(unpacked) as (path, _), contextlib.closing(UnixConnection(path)) as connection:
        _act(connection, "run", command="true")
        without = _resident(connection)
        _act(connection, "run_ipython", code="1+1")
        return without, _resident(connection)


def _resident(connection: UnixConnection) -> float:
    time.sleep(_SETTLING)
    lines = _act(connection, "run", command="cat /proc/[0-9]*/status 2>/dev/null | grep VmRSS").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


if __name__ == "__main__":
    manifest = build.current()
    assert manifest is not None, "build the bundle first"
    print(table("Cells", figures(tree.unpacked(manifest, Store()))))

"""The bundle's two flavours side by side: a tree of Python files, and one PyInstaller binary.

scripts/with-bundle .venv/bin/python -m benchmarks flavours
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, interleaved
from benchmarks.server import UnixConnection, running
from graftbox.bundle import tree
from graftbox.bundle.build import build
from graftbox.bundle.flavor import FLAVORS
from graftbox.bundle.manifest import BundleManifest
from graftbox.store import Store

COMPONENTS = ("core", "jupyter", "mcp")
"""Those with Python in them."""
RUNS = 9
SIZES: dict[str, tuple[str, Callable[[BundleManifest], float]]] = {
    "unpacked": ("MB", lambda made: sum(layer.size for layer in made.layers) / 1e6),
    "compressed (gzip)": ("MB", lambda made: sum(layer.compressed_size for layer in made.layers) / 1e6),
    "files and links": ("", lambda made: float(sum(layer.files for layer in made.layers))),
}
TIMES = ("alive after exec", "first command, after that", "first cell, after that", "second cell")


def figures() -> list[Figure]:
    """One row for each quantity and flavour."""
    made = {flavor: build(components=COMPONENTS, flavor=flavor) for flavor in FLAVORS}
    found = [
        Figure(f"{what}: {flavor}", unit, (size(made[flavor]),))
        for what, (unit, size) in SIZES.items()
        for flavor in FLAVORS
    ]
    folders = [tree.unpacked(made[flavor], Store()) for flavor in FLAVORS]
    # `interleaved` knows single numbers: each run of a flavour is kept aside with all of its own.
    runs: dict[Path, list[tuple[float, ...]]] = {folder: [] for folder in folders}

    def run(folder: Path) -> float:
        runs[folder].append(_times(folder))
        return 0.0

    interleaved([partial(run, folder) for folder in folders], RUNS)
    for number, what in enumerate(TIMES):
        for flavor, folder in zip(FLAVORS, folders, strict=True):
            samples = tuple(times[number] * 1000 for times in runs[folder][1:])
            found.append(Figure(f"{what}: {flavor}", "ms", samples))
    return found


def _times(folder: Path) -> tuple[float, ...]:
    """Seconds of each of `TIMES`, of one server that is started for it."""
    with running(folder) as (path, start), contextlib.closing(UnixConnection(path)) as connection:
        found = [time.perf_counter() - start]
        for action, args in (
            ("run", {"command": "true"}),
            ("run_ipython", {"code": "1", "include_extra": False}),
            ("run_ipython", {"code": "1", "include_extra": False}),
        ):
            begun = time.perf_counter()
            _act(connection, action, args)
            found.append(time.perf_counter() - begun)
    return tuple(found)


def _act(connection: UnixConnection, action: str, args: dict[str, Any]) -> None:
    body = json.dumps({"action": {"action": action, "args": args, "timeout": 60}})
    connection.request("POST", "/execute_action", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text

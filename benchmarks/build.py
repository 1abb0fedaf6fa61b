"""How long a bundle takes to build: from nothing, after an edit of the server, and when nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import graftbox
from benchmarks.measure import Figure, timed

PACKAGE = Path(graftbox.__file__).parent
CORE = ("--component", "core")
COLD_RUNS = 3
WARM_RUNS = 9


def figures() -> list[Figure]:
    """Cold build, rebuild and no-op in seconds of whole processes; sizes in MB of 10^6 bytes."""
    with _checkout() as source:
        cold = []
        for _ in range(COLD_RUNS):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(timed(partial(_build, source, cache, *CORE)))
        with tempfile.TemporaryDirectory() as cache:
            everything = timed(partial(_build, source, cache))
            built = _build(source, cache)
            noop = [timed(lambda: _build(source, cache)) for _ in range(WARM_RUNS)]
            edited = []
            for number in range(WARM_RUNS):
                main = source / "graftbox" / "server" / "__init__.py"
                main.write_text(main.read_text() + f"# edit {number}\n")
                edited.append(timed(lambda: _build(source, cache)))
    layers = built["components"]
    core = [layer for layer in layers if layer["name"] in ("core", "server")]
    return [
        Figure(
            "`graftbox bundle build --component core`, nothing cached, downloads included",
            "s",
            tuple(cold),
            30,
        ),
        Figure("the same of all components", "s", (everything,)),
        Figure("rebuild after an edit of the server", "s", tuple(edited), 1),
        Figure("nothing to do", "s", tuple(noop), 0.3),
        Figure("the layers of `core`, compressed", "MB", (_megabytes(core, "compressed_size"),), 40),
        Figure("the layers of `core`, unpacked", "MB", (_megabytes(core, "size"),)),
    ]


def _megabytes(layers: list[dict[str, Any]], quantity: str) -> float:
    return float(sum(layer[quantity] for layer in layers)) / 1e6


@contextmanager
def _checkout() -> Iterator[Path]:
    """A copy of the package that may be edited."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "graftbox", ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(folder)


def _build(source: Path, cache: str, *options: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(source), "GRAFTBOX_CACHE": cache}
    program = "from graftbox.cli.app import main; main()"
    command = [sys.executable, "-c", program, "bundle", "build", "--json", *options]
    result = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    report: dict[str, Any] = json.loads(result.stdout)
    return report

"""Why the server has an HTTP host of its own: what the usual one costs to import, on the bundle's Python."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import Figure, interleaved, timed

RUNS = 15
PROGRAMS = {
    "Python alone": "pass",
    "asyncio": "import asyncio",
    "the whole server": "import graftbox.server.service",
    "Starlette and uvicorn, before any code of ours": (
        "import starlette.applications, starlette.routing, uvicorn, uvicorn.protocols.http.h11_impl"
    ),
}


def figures(tree: Path) -> list[Figure]:
    """Seconds of whole processes that import and end; ``tree`` holds the unpacked ``openhands/``."""
    with tempfile.TemporaryDirectory() as packages:
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-compile", "--target", packages]
        subprocess.run([*pip, "starlette", "uvicorn"], check=True, stderr=subprocess.DEVNULL)
        _python(tree, packages, "import compileall, sys; compileall.compile_dir(sys.path[0], quiet=2)")
        steps = [partial(timed, partial(_python, tree, packages, code)) for code in PROGRAMS.values()]
        samples = interleaved(steps, RUNS)
    return [Figure(f"import: {what}", "s", values) for what, values in zip(PROGRAMS, samples, strict=True)]


def _python(tree: Path, packages: str, code: str) -> None:
    """Runs code on the bundle's Python, in a mount namespace of its own."""
    prepared = f"import sys; sys.path[:0] = [{packages!r}, '/openhands/code']; {code}"
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(tree / "openhands"), "/openhands"]
    subprocess.run([*command, "/openhands/libexec/python3.13", "-IBXutf8", "-c", prepared], check=True)

"""Measures everything in one run and prints Markdown tables; ``--readme`` also writes them into README.md.

python -m benchmarks [--readme] [build] [imports] [files] [mcp] [shell] [kernel] [graft] [mirror] [server]
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from demo import debian_base
from tests.integration.conftest import running_docker, running_registry

from benchmarks import build, files, graft, imports, kernel, mcp, mirror, server, shell
from benchmarks.measure import Figure, table
from graftbox.bundle import build as bundle_build
from graftbox.bundle import tree
from graftbox.store import Store

README = Path(__file__).parent.parent / "README.md"
SECTIONS = ["build", "imports", "files", "mcp", "shell", "kernel", "graft", "mirror", "server"]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if not name.startswith("-")] or SECTIONS
    tables = []
    for title, figures in _measured(names):
        tables.append(table(title, figures))
        print(tables[-1], flush=True)
    if "--readme" in arguments:
        text = re.sub(
            r"(<!-- benchmarks -->\n).*(<!-- /benchmarks -->)",
            lambda match: match[1] + "\n".join(tables) + match[2],
            README.read_text(),
            flags=re.DOTALL,
        )
        README.write_text(text)


def _measured(names: list[str]) -> Iterator[tuple[str, list[Figure]]]:
    with tempfile.TemporaryDirectory(prefix="graftbox-bench-") as name:
        folder = Path(name)
        if "build" in names:
            yield "Building the bundle", build.figures()
        manifest = bundle_build.current()
        assert manifest is not None, "build the bundle first"
        unpacked = tree.unpacked(manifest, Store())
        if "imports" in names:
            yield "Starting the server", imports.figures(unpacked)
        if "files" in names:
            yield "Reading and writing files", files.figures(unpacked)
        if "mcp" in names:
            yield "The sandbox as an MCP server", mcp.figures(unpacked)
        if "shell" in names:
            yield "The shell", shell.figures(unpacked)
        if "kernel" in names:
            yield "Cells", kernel.figures(unpacked)
        if not {"graft", "mirror", "server"} & set(names):
            return
        debian_base.make(folder, ARCHITECTURES[platform.machine()])
        with running_docker(), running_registry(folder / "registry") as registry:
            if "graft" in names:
                yield "Adding it to an image", graft.figures(registry.address, folder / "base")
            if "mirror" in names:
                yield "Pulling through the mirror", mirror.figures(registry.address, folder / "base:latest")
            if "server" in names:
                image = "graftbox-bench-base:1"
                copy = [
                    "skopeo",
                    "copy",
                    "-q",
                    f"oci:{folder}/base:latest",
                    f"docker-archive:{folder}/base.tar:{image}",
                ]
                subprocess.run(copy, check=True)
                subprocess.run(
                    ["docker", "load", "-q", "-i", folder / "base.tar"], check=True, stdout=sys.stderr
                )
                yield "Running it", server.figures(unpacked, image)
                subprocess.run(["docker", "rmi", "-f", image], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])

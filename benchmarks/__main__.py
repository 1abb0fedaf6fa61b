"""Measures everything in one run and prints Markdown tables; ``--readme`` also writes them into README.md.

Tables of sections that were not measured stay there.

python -m benchmarks [--readme] [--resume] [--long] [SECTION ...]

--resume goes on with the ways that an interrupted run has not measured; --long grafts 10,000 new images too.
"""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from demo import images
from tests.integration.conftest import running_docker, running_registry

from benchmarks import (
    browser,
    build,
    files,
    flavours,
    graft,
    imports,
    jobs,
    kernel,
    mcp,
    mirror,
    model,
    registry,
    server,
    shell,
    sizes,
    vscode,
    ways,
)
from benchmarks.measure import brief, table
from graftbox.bundle import build as bundle_build
from graftbox.bundle import tree
from graftbox.store import Store

README = Path(__file__).parent.parent / "README.md"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
IMAGE = "graftbox-bench-base:1"


class Machine:
    """What sections measure with, made when the first one needs it and kept until the end of the run."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, options: Collection[str] = ()) -> None:
        self._folder, self._stack = folder, stack
        self.resume, self.long = "--resume" in options, "--long" in options

    @cached_property
    def unpacked(self) -> Path:
        """The folder with the bundle's ``openhands/``."""
        manifest = bundle_build.current()
        assert manifest is not None, "build the bundle first"
        return tree.unpacked(manifest, Store())

    @cached_property
    def core(self) -> Path:
        """The folder with the ``openhands/`` of the component core alone."""
        return tree.unpacked(bundle_build.build(components=("core",)), Store())

    @cached_property
    def port(self) -> int:
        """Where a server of this source tree listens, open to all."""
        return self._stack.enter_context(jobs.serving())

    @cached_property
    def base(self) -> Path:
        """An OCI layout with a small Debian as ``latest``."""
        images.make(self._folder, ARCHITECTURES[platform.machine()])
        return self._folder / "base"

    @cached_property
    def tagged(self) -> Path:
        """The image in that layout, as ``DIR:TAG``."""
        return self.base.with_name("base:latest")

    @cached_property
    def registry(self) -> str:
        """``host:port`` of a registry; a Docker daemon runs beside it."""
        self._stack.enter_context(running_docker())
        return self._stack.enter_context(running_registry(self._folder / "registry")).address

    @cached_property
    def image(self) -> str:
        """The name under which the Docker daemon has that base."""
        assert self.registry
        archive = self._folder / "base.tar"
        words = ["skopeo", "copy", "-q", f"oci:{self.tagged}", f"docker-archive:{archive}:{IMAGE}"]
        subprocess.run(words, check=True)
        subprocess.run(["docker", "load", "-q", "-i", archive], check=True, stdout=sys.stderr)
        self._stack.callback(subprocess.run, ["docker", "rmi", "-f", IMAGE], stdout=sys.stderr)
        return IMAGE

    @cached_property
    def model(self) -> Path:
        """The virtual environment with the model's package; raises `LookupError` where there is none."""
        if not (model.ENVIRONMENT / "bin/python").exists():
            raise LookupError(f"{model.ENVIRONMENT}, which tests/integration/openhands/install.sh makes")
        return model.ENVIRONMENT


@dataclass(frozen=True)
class Section:
    """One table: the function that measures it is called with what it needs of `Machine`, in this order."""

    title: str
    needs: tuple[str, ...]
    figures: Callable[..., Any]
    table: Callable[[str, Any], str] = table
    """Makes the Markdown of the title and of what ``figures`` returned."""
    brief: Callable[[str, Any], str] | None = brief
    """The same for the README; None: as it is."""


SECTIONS = {
    "build": Section("Building the bundle", (), build.figures),
    "sizes": Section("The size of the bundle", (), sizes.figures),
    "imports": Section("Starting the server", ("unpacked",), imports.figures),
    "flavours": Section("The two flavours", (), flavours.figures),
    "files": Section("Reading and writing files", ("unpacked",), files.figures),
    "mcp": Section("The sandbox as an MCP server", ("unpacked",), mcp.figures),
    "shell": Section("The shell", ("unpacked",), shell.figures),
    "kernel": Section("Cells", ("unpacked",), kernel.figures),
    "browser": Section("The browser", ("unpacked",), browser.figures),
    "vscode": Section("VS Code", ("unpacked",), vscode.figures),
    "jobs": Section("Background commands", ("port",), jobs.figures),
    "model": Section("Beside the model's server", ("unpacked", "model"), model.figures),
    "graft": Section("Adding it to an image", ("registry", "base"), graft.figures),
    "mirror": Section("Pulling through the mirror", ("registry", "tagged"), mirror.figures),
    "server": Section("Running it", ("unpacked", "core", "image"), server.figures),
    "ways": Section("The ways side by side", ("resume",), ways.comparison, ways.table, None),
    # The last one: it wraps the HTTP library's sockets.
    "registry": Section("Grafting in a registry", ("long",), registry.figures),
}


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if not name.startswith("-")] or list(SECTIONS)
    if unknown := set(names) - set(SECTIONS):
        sys.exit(f"no section is called {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    tables: dict[str, str] = {}
    for title, text, short in _measured(names, arguments):
        tables[title] = short
        print(text, flush=True)
    if "--readme" in arguments:
        readme = README.read_text()
        start, end = (readme.index(mark) for mark in ("<!-- benchmarks -->\n", "<!-- /benchmarks -->"))
        start += len("<!-- benchmarks -->\n")
        README.write_text(readme[:start] + renewed(readme[start:end], tables) + readme[end:])


def renewed(text: str, tables: Mapping[str, str]) -> str:
    """The tables of ``text``, those of ``tables`` in place of the ones with the same titles, or behind."""
    old: dict[str, str] = {}
    for part in re.split(r"(?m)^(?=### )", text):
        if part.strip():
            # A section may have several tables: "### Title" and "### Title: what".
            title = part.splitlines()[0].removeprefix("### ").partition(":")[0]
            old[title] = old.get(title, "") + part
    return "\n".join(part.rstrip("\n") + "\n" for part in (old | dict(tables)).values())


def _measured(names: list[str], options: list[str]) -> Iterator[tuple[str, str, str]]:
    """Titles, tables, and tables for the README."""
    with tempfile.TemporaryDirectory(prefix="graftbox-bench-") as name, contextlib.ExitStack() as stack:
        machine = Machine(Path(name), stack, options)
        for key, section in SECTIONS.items():
            if key not in names:
                continue
            try:
                needed = [getattr(machine, need) for need in section.needs]
            except LookupError as error:
                print(f"{section.title}: left out, as this is missing: {error.args[0]}", file=sys.stderr)
                continue
            result = section.figures(*needed)
            text = section.table(section.title, result)
            yield section.title, text, section.brief(section.title, result) if section.brief else text


if __name__ == "__main__":
    main(sys.argv[1:])

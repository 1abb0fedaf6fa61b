"""Bytecode for the bundle's Python files, made by a CPython from the same lock.

That CPython is of the build machine's architecture, from the same Debian packages, unpatched, and started
through its own loader; bytecode does not depend on the architecture, so cross builds give the same bytes. The
files are unchecked-hash .pycs (PEP 552): they hold no time and are never compared with their source.
"""

from __future__ import annotations

import os
import platform
import posixpath
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle import deb, rules
from graftbox.bundle.content import ROOT, Content, File, Link, files
from graftbox.errors import FormatError, UnsupportedError
from graftbox.store import Store

VERSION = "3.13"
TAG = "cpython-313"
# All that a CPython needs to compile: itself, its libraries, and the modules it imports to start.
PACKAGES = ("libc6", "libexpat1", f"libpython{VERSION}-minimal", f"python{VERSION}-minimal", "zlib1g")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
PROGRAM = Path(__file__).with_name("compiler_program.py")


def native() -> str:
    """This machine's architecture, named as Debian and OCI do."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        raise UnsupportedError(
            f"Bundles are built on Linux on x86_64 or aarch64; this machine is {sys.platform} on {machine}. "
            "Build on such a machine and copy the cache folder."
        )
    return MACHINES[machine]


@dataclass(frozen=True)
class Compiler:
    """An unpacked CPython of this machine's architecture, below ``folder``."""

    folder: Path

    @classmethod
    def find(cls, store: Store, digest: str, packages: Mapping[str, Path]) -> Compiler:
        """The compiler made of ``packages`` (.deb files by "name version"), unpacked on first use.

        ``digest`` is bare hex and names the packages' bytes.
        """
        folder = store.folder("compilers") / digest
        if not folder.is_dir():
            with store.lock("compiler"):
                if not folder.is_dir():
                    with store.temporary_folder() as temporary:
                        _unpack(temporary, packages)
                        temporary.rename(folder)
        return cls(folder)

    def command(self, *arguments: str) -> list[str]:
        """The argv that runs this Python with ``arguments``."""
        python = str(self.folder / "bin" / f"python{VERSION}")
        loader = [str(self.folder / "lib" / "ld.so"), "--library-path", str(self.folder / "lib")]
        return [*loader, "--argv0", python, python, "-ISB", "-Xutf8", "-Wignore", *arguments]

    def compile(self, sources: Sequence[tuple[str, bytes]], store: Store) -> list[bytes | None]:
        """The .pyc of each (final absolute path, source), None where the source is not valid Python."""
        with store.temporary_folder() as folder:
            for index, (path, source) in enumerate(sources):
                (folder / f"{index}.src").write_bytes(path.encode() + b"\n" + source)
            step = max(1, min(os.cpu_count() or 1, len(sources)))
            processes = [
                subprocess.Popen(
                    self.command(str(PROGRAM), str(folder), str(start), str(step)),
                    env={"PYTHONHASHSEED": "0"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                for start in range(step)
            ]
            try:
                output = [process.communicate()[0] for process in processes]
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            if any(process.returncode for process in processes):
                message = b"".join(output).decode(errors="replace").strip()[-500:]
                raise FormatError(f"The bundle's own Python failed to compile its files: {message}")
            results = [folder / f"{index}.pyc" for index in range(len(sources))]
            return [result.read_bytes() if result.exists() else None for result in results]


def add_bytecode(content: Content, compiler: Compiler, store: Store) -> None:
    """Adds ``__pycache__`` entries for every ``.py`` of ``content``."""
    modules = [(path, file) for path, file in files(content) if path.endswith(".py")]
    results = compiler.compile([(f"{ROOT}/{path}", file.data) for path, file in modules], store)
    for (path, file), result in zip(modules, results, strict=True):
        if result is not None:
            folder, name = posixpath.split(path)
            cached = f"{folder}/__pycache__/{name.removesuffix('.py')}.{TAG}.pyc"
            content[cached] = File(result, origin=file.origin)


def _unpack(folder: Path, packages: Mapping[str, Path]) -> None:
    """Writes the compiler's files: bin/, lib/ with all libraries flat, lib/python3.13/."""
    triplet = rules.TRIPLETS[native()]
    libraries, modules, program = (
        f"usr/lib/{triplet}/",
        f"usr/lib/python{VERSION}/",
        f"usr/bin/python{VERSION}",
    )

    def target(name: str) -> str | None:
        if name == program:
            return f"bin/python{VERSION}"
        if name.startswith(modules) and not name.endswith("sitecustomize.py"):
            return name.removeprefix("usr/")
        rest = name.removeprefix(libraries)
        return f"lib/{rest}" if rest != name and "/" not in rest and ".so" in rest else None

    for origin, path in packages.items():
        for name, node in deb.nodes(path, origin, lambda name: target(name) is not None):
            place = folder / str(target(name))
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(node, Link):
                place.symlink_to(node.target)
            elif isinstance(node, File):
                place.write_bytes(node.data)
                place.chmod(0o755 if node.executable else 0o644)
    shutil.copy(folder / "lib" / rules.LOADERS[native()], folder / "lib" / "ld.so")
    folder.chmod(0o755)

"""Bytecode for the bundle's Python files, made by a CPython from the same lock.

That CPython is of the build machine's architecture, from the same Debian packages, unpatched, and started
through its own loader; bytecode does not depend on the architecture, so cross builds give the same bytes. The
files are unchecked-hash .pycs (PEP 552): they hold no time and are never compared with their source.
"""

from __future__ import annotations

import errno
import os
import posixpath
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle import native
from graftbox.bundle.content import ROOT, Content, File, files
from graftbox.bundle.lock import LockedPackage
from graftbox.errors import FormatError
from graftbox.store import Store

VERSION = "3.13"
TAG = "cpython-313"
# All that a CPython needs to compile: itself, its libraries, and the modules it imports to start.
PACKAGES = ("libc6", "libexpat1", f"libpython{VERSION}-minimal", f"python{VERSION}-minimal", "zlib1g")
PROGRAM = Path(__file__).with_name("compiler_program.py")


@dataclass(frozen=True)
class Compiler:
    """An unpacked CPython of this machine's architecture, below ``folder``."""

    folder: Path

    @classmethod
    def unpack(cls, store: Store, packages: Mapping[LockedPackage, Path]) -> Compiler:
        """The compiler made of ``packages`` (.deb files), unpacked on first use."""
        modules = f"usr/lib/python{VERSION}/"

        def extra(name: str) -> str | None:
            wanted = name.startswith(modules) and not name.endswith("sitecustomize.py")
            return name.removeprefix("usr/") if wanted else None

        return cls(native.unpack(store, packages, extra))

    def command(self, *arguments: str) -> list[str]:
        """The argv that runs this Python with ``arguments``."""
        return [*native.command(self.folder, f"python{VERSION}"), "-ISB", "-Xutf8", "-Wignore", *arguments]

    def _start(self, folder: Path, start: int, step: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(str(PROGRAM), str(folder), str(start), str(step)),
            env={"PYTHONHASHSEED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def compile(self, sources: Sequence[tuple[str, bytes]], store: Store) -> list[bytes | None]:
        """The .pyc of each (final absolute path, source), None where the source is not valid Python."""
        with store.temporary_folder() as folder:
            for index, (path, source) in enumerate(sources):
                (folder / f"{index}.src").write_bytes(path.encode() + b"\n" + source)
            step = max(1, min(os.cpu_count() or 1, len(sources)))
            processes: list[subprocess.Popen[bytes]] = []
            try:
                processes.extend(self._start(folder, start, step) for start in range(step))
                output = [process.communicate()[0] for process in processes]
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            if any(process.returncode for process in processes):
                for process in processes:
                    if process.returncode in {errno.ENOSPC, errno.EDQUOT}:
                        raise OSError(process.returncode, os.strerror(process.returncode), str(folder))
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

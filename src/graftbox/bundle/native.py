"""Debian's programs for the machine that builds, unpacked unchanged and started through their own loader.

So they run on any Linux, whatever its libc, without being installed.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from graftbox.bundle import deb, rules
from graftbox.bundle.content import File, Link
from graftbox.bundle.lock import LockedPackage
from graftbox.errors import UnsupportedError
from graftbox.store import Store, storage_errors

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """This machine's architecture, named as Debian and OCI do."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        raise UnsupportedError(
            f"Bundles are built on Linux on x86_64 or aarch64; this machine is {sys.platform} on {machine}. "
            "Build on such a machine and copy the cache folder."
        )
    return MACHINES[machine]


def folder(store: Store, packages: Sequence[LockedPackage]) -> Path:
    """Where these packages are or would be unpacked."""
    digest = hashlib.sha256(" ".join(sorted(package.sha256 for package in packages)).encode())
    return store.root / "programs" / digest.hexdigest()


def unpack(
    store: Store,
    packages: Mapping[LockedPackage, Path],
    extra: Callable[[str], str | None] = lambda name: None,
) -> Path:
    """The folder with ``bin/`` and, flat, ``lib/`` of ``packages`` (.deb files), made whole on first use.

    ``extra`` gives the destination of further files of theirs.
    """
    place = folder(store, list(packages))
    if place.is_dir():
        return place
    with store.lock("programs"), storage_errors(store.root):
        if not place.is_dir():
            store.folder("programs")
            with store.temporary_folder() as temporary:
                for package, path in packages.items():
                    _unpack(temporary, f"{package.name} {package.version}", path, extra)
                temporary.chmod(0o755)
                temporary.rename(place)
    return place


def command(place: Path, program: str) -> list[str]:
    """The argv that starts ``bin/<program>`` below ``place``, with room for its own arguments."""
    executable = str(place / "bin" / program)
    loader = str(place / "lib" / rules.LOADERS[architecture()])
    return [loader, "--library-path", str(place / "lib"), "--argv0", executable, executable]


def _unpack(place: Path, origin: str, path: Path, extra: Callable[[str], str | None]) -> None:
    libraries = f"usr/lib/{rules.TRIPLETS[architecture()]}/"

    def target(name: str) -> str | None:
        if name.startswith("usr/bin/"):
            return name.removeprefix("usr/")
        rest = name.removeprefix(libraries)
        return f"lib/{rest}" if rest != name and "/" not in rest and ".so" in rest else extra(name)

    for name, node in deb.nodes(path, origin, lambda name: target(name) is not None):
        file = place / str(target(name))
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(node, Link):
            file.symlink_to(node.target)
        elif isinstance(node, File):
            file.write_bytes(node.data)
            file.chmod(0o755 if node.executable else 0o644)

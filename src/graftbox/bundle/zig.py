"""The compiler for native modules: PyPI's ``ziglang``, locked in the recipe ``tools``.

One static program with all headers and libraries that it needs: it gives the same bytes on every machine, and
compiles for each architecture on either.
"""

from __future__ import annotations

import shutil
import zipfile
from functools import cache
from pathlib import Path

from graftbox.bundle import native
from graftbox.bundle.fetch import fetch
from graftbox.bundle.lock import Lock, LockedWheel
from graftbox.bundle.progress import Progress
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sources import Sources
from graftbox.errors import FormatError, NotFoundError
from graftbox.store import Store, storage_errors

PROJECT = "ziglang"
TARGETS = {"amd64": "x86_64-linux-gnu.2.28", "arm64": "aarch64-linux-gnu.2.28"}
"""The oldest C library of ours that what is compiled may need; Node's own wheel asks for this one."""


@cache
def locked() -> LockedWheel:
    """The compiler for this machine, from the lock."""
    for entry in Lock.of(Recipe.builtin("tools")).architecture(native.architecture()).wheels:
        if entry.name == PROJECT:
            return entry
    raise NotFoundError(f"The lock of the recipe tools has no {PROJECT}. Run `graftbox lock tools`.")


def program(store: Store, sources: Sources | None = None, progress: Progress | None = None) -> Path:
    """The path of ``zig``, fetched and unpacked on first use."""
    wheel = locked()
    place = store.root / "programs" / wheel.sha256
    if not place.is_dir():
        recipe = Recipe.builtin("tools")
        path = fetch([wheel], store, sources or Sources.find(), progress, recipe=recipe)[wheel]
        with store.lock("programs"), storage_errors(store.root):
            if not place.is_dir():
                store.folder("programs")
                with store.temporary_folder() as temporary:
                    _unpack(path, temporary)
                    temporary.chmod(0o755)
                    temporary.rename(place)
    return place / PROJECT / "zig"


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if not name.endswith("/") and ".." not in name.split("/") and _is_needed(name):
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
            (folder / PROJECT / "zig").chmod(0o755)
    except (zipfile.BadZipFile, EOFError, FileNotFoundError) as error:
        raise FormatError(f"The wheel {wheel} is damaged: {error}. Delete it and build again.") from error


def _is_needed(name: str) -> bool:
    """Whether a file serves Linux with glibc; other systems' headers are most of the wheel."""
    parts = name.split("/")
    if parts[:3] == [PROJECT, "lib", "libc"] and len(parts) > 4:
        system = parts[4] if parts[3] == "include" else ""
        return (
            parts[3] == "glibc" or system == "generic-glibc" or ("linux" in system and "musl" not in system)
        )
    return parts[:3] != [PROJECT, "lib", "docs"]

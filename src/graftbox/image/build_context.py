"""Build contexts: the folder that a builder is given, with a Dockerfile and the files that it names."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import StorageError
from graftbox.image.layout import disk


@dataclass(frozen=True)
class File:
    """A file of a context: its bytes, or a file elsewhere that it is a copy of."""

    content: bytes | Path
    executable: bool = False


@dataclass(frozen=True)
class Link:
    """A symbolic link of a context."""

    target: str


def write(folder: Path, dockerfile: str, files: Mapping[str, File | Link]) -> None:
    """Fills ``folder``, made if missing. Top-level entries that we write are replaced, others stay."""
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for top in {name.partition("/")[0] for name in files}:
            place = folder / top
            if place.is_dir() and not place.is_symlink():
                _remove_ours(place)
            else:
                place.unlink(missing_ok=True)
        for name, file in files.items():
            _write(folder / name, file)
        _write(folder / "Dockerfile", File(dockerfile.encode()))


def _remove_ours(folder: Path) -> None:
    """Deletes a folder that an earlier call has written; one that holds something else is not ours."""
    if not any((folder / "code" / name).is_dir() for name in ("graftbox", "server")):
        raise StorageError(f"{folder} is in the way and not graftbox's. Move it, or choose another folder.")
    shutil.rmtree(folder)


def _write(path: Path, file: File | Link) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if isinstance(file, Link):
        path.symlink_to(file.target)
        return
    if isinstance(file.content, bytes):
        path.write_bytes(file.content)
    else:
        # No link: the folder is its owner's to change, the cache is not.
        shutil.copyfile(file.content, path)
    path.chmod(0o755 if file.executable else 0o644)

"""What the cache holds, and what of it nothing has used for a while.

Everything in the cache can be fetched or made again. When an entry was last used is told by its ctime, which
`Store.used` sets, or a file's time of access; what a sandbox has mounted is in use.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR

from graftbox.store import Store, remove_folder, storage_errors

_HEX = "[0-9a-f]"
ENTRIES = {
    "answers": f"answers/{_HEX}*",
    "blobs": f"blobs/sha256/{_HEX}*",
    "bundles": "bundles/*/*.json",
    "compilers": f"compilers/{_HEX}*",
    "images": f"rootfs/{_HEX}*",
    "inventories": "inventories/*.json",
    "layers": "layers/*.json",
    "licences": "licences/*.json",
    "mirrored images": f"mirror/{_HEX}*/*.json",
    "programs": f"programs/{_HEX}*",
    "trees": f"trees/{_HEX}*",
    "unpacked layers": f"trees/layers/{_HEX}*",
}
"""Kind -> the files or folders of that kind, as a pattern below the cache's root."""


@dataclass(frozen=True)
class Kind:
    """One kind of entries: how many, and the bytes that they take on disk; what is linked counts once."""

    name: str
    entries: int
    size: int


@dataclass(frozen=True)
class Leftover:
    """An entry that may go; ``size``: the bytes on disk that this frees, once those before it are gone."""

    kind: str
    path: Path
    size: int


def kinds(store: Store) -> list[Kind]:
    """What is there, by kind."""
    seen: set[tuple[int, int]] = set()
    found = []
    for name, pattern in ENTRIES.items():
        paths = list(store.root.glob(pattern))
        found.append(Kind(name, len(paths), sum(_size(path, seen) for path in paths)))
    return found


def unused(store: Store, moment: float) -> list[Leftover]:
    """Entries that nothing has used since ``moment``, in Unix time; none that is mounted in any sandbox."""
    mounted = _mounted()
    links: Counter[tuple[int, int]] = Counter()
    found = []
    for name, pattern in ENTRIES.items():
        found += [
            Leftover(name, path, _freed(path, links))
            for path in sorted(store.root.glob(pattern))
            if _last_use(path) <= moment and path.name not in mounted
        ]
    return found


def remove(store: Store, leftover: Leftover) -> None:
    """Takes the entry out of the cache at once, then deletes it; one that is gone already is fine."""
    with storage_errors(store.root), store.temporary_folder() as folder:
        target = folder / leftover.path.name
        try:
            leftover.path.rename(target)
        except FileNotFoundError:
            return
        if target.is_dir() and not target.is_symlink():
            _unlock(target)
            remove_folder(target)


def _last_use(path: Path) -> float:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return time.time()
    # The times of access of folders tell nothing: every look at the cache changes them.
    return found.st_ctime if path.is_dir() else max(found.st_atime, found.st_ctime)


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes on disk of a file or of all below a folder, without what is in ``seen``, which is added to."""
    total = 0
    for each in _walk(path):
        found = each.lstat()
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * 512
    return total


def _freed(path: Path, links: Counter[tuple[int, int]]) -> int:
    """Bytes on disk that end with a file or folder: of a file with other links, those of the last one.

    ``links`` counts how many of each file's links are going, those below ``path`` included from now on.
    """
    total = 0
    for each in _walk(path):
        found = each.lstat()
        inode = (found.st_dev, found.st_ino)
        links[inode] += 1
        if links[inode] == found.st_nlink or S_ISDIR(found.st_mode):  # whose links are its subfolders
            total += found.st_blocks * 512
    return total


def _walk(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, _, names in os.walk(path):
            yield from (Path(folder, name) for name in names)


def _unlock(path: Path) -> None:
    """Lets the owner delete what is in folders that an image has made unwritable."""
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o700)


def _mounted() -> set[str]:
    """Names of trees and images that some process has mounted."""
    names: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            names.update(re.findall(r"/([0-9a-f]{64})\b", path.read_text(errors="replace")))
        except OSError:  # it has ended, or is somebody else's
            continue
    return names

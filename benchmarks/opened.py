"""Which files of the bundle are opened while a command runs, such as the tests; and which never are.

    python -m benchmarks.opened [--json FILE] COMMAND…

Needs root: the kernel reports every open below this machine's cache folder (fanotify(7)), whatever mount or
namespace it came through. Sandboxes that mount the unpacked bundle are seen, grafted images in an engine
are not.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from graftbox.bundle import build, inventory, tree
from graftbox.store import Store

FAN_CLOEXEC, FAN_UNLIMITED_QUEUE = 0x1, 0x10
FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x1, 0x100
FAN_OPEN = 0x20
AT_FDCWD = -100
EVENT = struct.Struct("=IBBHQii")
MEGA = 1e6
KINDS = ("*.py", "*.pyc", "*.so*", "share/doc/*", "*.dist-info/*")


class Watch:
    """Every file on the filesystem of ``folder`` that is opened while the block runs, by device and inode.

    Paths would be those that the opener saw, in a mount namespace of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.inodes: set[tuple[int, int]] = set()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fanotify_mark.argtypes = [
            ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p,
        ]  # fmt: skip
        self._queue = libc.fanotify_init(FAN_CLOEXEC | FAN_UNLIMITED_QUEUE, os.O_RDONLY | os.O_LARGEFILE)
        if self._queue < 0 or libc.fanotify_mark(
            self._queue, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, AT_FDCWD, str(folder).encode()
        ):
            raise OSError(ctypes.get_errno(), f"fanotify on {folder}: {os.strerror(ctypes.get_errno())}")
        self._thread = threading.Thread(target=self._read)
        self._ended, self._end = os.pipe()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._queue)
        os.close(self._ended)

    def _read(self) -> None:
        import select

        while True:
            ready, _, _ = select.select([self._queue, self._ended], [], [])
            if self._queue in ready:
                self._take(os.read(self._queue, 1 << 16))
            else:
                return

    def _take(self, events: bytes) -> None:
        offset = 0
        while offset < len(events):
            length, _, _, _, _, fd, _ = EVENT.unpack_from(events, offset)
            offset += length
            found = os.fstat(fd)
            os.close(fd)
            self.inodes.add((found.st_dev, found.st_ino))


def rows() -> Iterator[inventory.Row]:
    """What this machine's bundle holds, links aside; it is unpacked too, which opens every file."""
    store = Store()
    made = build.build(store=store)
    tree.unpacked(made, store)
    return (row for row in inventory.rows(made, store) if row.size)


def used(inodes: set[tuple[int, int]], trees: Path) -> set[str]:
    """The opened files' paths in the bundle, whichever of the unpacked bundles they were opened in."""
    paths = set()
    for root in trees.glob("*/openhands"):
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                found = path.lstat()
                if (found.st_dev, found.st_ino) in inodes:
                    paths.add(path.relative_to(root).as_posix())
    return paths


def summary(found: Sequence[inventory.Row], opened: set[str]) -> Iterator[str]:
    """Lines: by kind of file, then packages and folders by what of them was never opened."""

    def line(name: str, some: Sequence[inventory.Row]) -> str:
        rest = [row for row in some if row.path not in opened]
        total, never = sum(row.size for row in some), sum(row.size for row in rest)
        packed = sum(row.compressed for row in rest)
        return (
            f"{name:<46} {len(some):>6} {total / MEGA:>8.2f}   {len(rest):>6} {never / MEGA:>8.2f} "
            f"{packed / MEGA:>8.2f}"
        )

    yield f"{'':<46} {'files':>6} {'MB':>8}   {'never':>6} {'MB':>8} {'gzip MB':>8}"
    for layer in dict.fromkeys(row.layer for row in found):
        yield line(f"layer {layer}", [row for row in found if row.layer == layer])
    left = list(found)
    for kind in KINDS:
        some = [row for row in left if fnmatch.fnmatch(row.path, kind)]
        left = [row for row in left if not fnmatch.fnmatch(row.path, kind)]
        yield line(kind, some)
    yield line("others", left)
    # A source whose bytecode is used is used; so are licences.
    sources = {row.path for row in found if row.path.endswith(".py") and bytecode(row.path) in opened}
    opened = opened | sources | {row.path for row in found if "copyright" in row.path or "icen" in row.path}
    groups: dict[str, list[inventory.Row]] = {}
    for row in found:
        groups.setdefault(f"{row.layer}: {row.package}", []).append(row)
        if "/dist-packages/" in row.path or row.path.startswith("lib/python3.13/"):
            folder = "/".join(row.path.split("/")[:5]).removesuffix("/__pycache__")
            groups.setdefault(f"  {folder.removeprefix('lib/python3.13/')}", []).append(row)
    weights = {
        name: sum(row.compressed for row in some if row.path not in opened) for name, some in groups.items()
    }
    yield "\nNever opened, sources of used bytecode and licences aside:"
    for name in sorted(groups, key=lambda name: -weights[name]):
        if weights[name] >= MEGA / 20:
            yield line(name, groups[name])


def bytecode(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-313.pyc"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opened", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write {path: opened?} there; adds to what is there")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    found = list(rows())
    with Watch(Store().folder("trees")) as watch:
        status = subprocess.run(options.command).returncode
    opened = used(watch.inodes, Store().folder("trees"))
    if options.json:
        if options.json.exists():
            opened |= {path for path, was in json.loads(options.json.read_bytes()).items() if was}
        options.json.write_text(json.dumps({row.path: row.path in opened for row in found}, indent=0))
    print("\n".join(summary(found, opened)))
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Paths inside an unpacked image, followed as the image itself would follow them."""

from __future__ import annotations

import posixpath
from pathlib import Path

from graftbox.errors import FormatError

MAX_LINKS = 40


def guest_path(rootfs: Path, path: str) -> str:
    """``path`` with its links followed inside ``rootfs``, which it never leaves. Absolute; may not exist.

    Raises `FormatError` for links that go in circles.
    """
    pending = [part for part in path.split("/") if part]
    done = "/"
    links = 0
    while pending:
        part = pending.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = posixpath.dirname(done)
            continue
        here = posixpath.join(done, part)
        on_disk = rootfs / here.lstrip("/")
        if on_disk.is_symlink():
            links += 1
            if links > MAX_LINKS:
                raise FormatError(f"The image's links at {path} go in circles; nothing can be mounted there.")
            target = str(on_disk.readlink())
            if target.startswith("/"):
                done = "/"
            pending[:0] = [piece for piece in target.split("/") if piece]
        else:
            done = here
    return done


def inside(rootfs: Path, path: str) -> Path:
    """The file of this machine that ``path`` means inside ``rootfs``."""
    return rootfs / guest_path(rootfs, path).lstrip("/")

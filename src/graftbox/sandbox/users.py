"""Who a process in an image runs as: the rules of USER in image configurations, as Docker applies them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import FormatError, NotFoundError, UsageError
from graftbox.sandbox.rootfs import inside

MOST = 2**32 - 2
"""The largest uid or gid; the number after it stands for none."""


@dataclass(frozen=True)
class User:
    """A resolved USER."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Supplementary groups."""
    home: str = "/"


def resolve(text: str, rootfs: Path) -> User:
    """Looks ``user``, ``uid``, ``user:group`` or ``uid:gid`` up in the image's own files.

    A number needs no entry: an unknown uid has gid 0 and home ``/``. Raises `NotFoundError` for a name
    without an entry.
    """
    wanted, _, group = text.partition(":")
    for word in (wanted, group):
        if word.isdigit() and int(word) > MOST:
            raise UsageError(f"{word} is no user or group: their numbers end at {MOST}.")
    wanted = wanted or "0"
    name, uid, gid, home = _account(wanted, rootfs)
    if group:
        return User(uid, _group(group, rootfs), (), home)
    members = tuple(
        int(fields[2])
        for fields in _entries(rootfs, "etc/group", 4)
        if name is not None and name in fields[3].split(",") and int(fields[2]) != gid
    )
    return User(uid, gid, members, home)


def _account(wanted: str, rootfs: Path) -> tuple[str | None, int, int, str]:
    for fields in _entries(rootfs, "etc/passwd", 6):
        if fields[0] == wanted or (wanted.isdigit() and int(fields[2]) == int(wanted)):
            return fields[0], int(fields[2]), int(fields[3]), fields[5] or "/"
    if not wanted.isdigit():
        raise NotFoundError(
            f"The image has no user {wanted!r} in its /etc/passwd; give --user a number or a name it has."
        )
    return None, int(wanted), 0, "/"


def _group(wanted: str, rootfs: Path) -> int:
    if wanted.isdigit():
        return int(wanted)
    for fields in _entries(rootfs, "etc/group", 3):
        if fields[0] == wanted:
            return int(fields[2])
    raise NotFoundError(
        f"The image has no group {wanted!r} in its /etc/group; give --user a number or a name that it has."
    )


def _entries(rootfs: Path, path: str, columns: int) -> Iterator[list[str]]:
    """The well-formed lines of a passwd or group file; a missing or odd file has none."""
    try:
        text = inside(rootfs, path).read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, FormatError):
        return
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= columns and fields[2].isdigit() and (columns < 6 or fields[3].isdigit()):
            yield fields

"""Files and folders as the API shows them: where a name leads, what is there, and why it can't be done.

A name that is not UTF-8 is shown with replacement characters in ``path`` and, percent-encoded, in
``path_encoded``, which can be used as it is in every query. In a JSON body it is written with lone surrogates
(``"\\udcff"`` for the byte 0xff).
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from graftbox.server.request import HTTPError

_STATUSES = {
    errno.ENOENT: (404, "There is no such file or folder"),
    errno.ENOTDIR: (404, "A part of its path is not a folder"),
    errno.EACCES: (403, "The sandbox's user has no permission for it"),
    errno.EPERM: (403, "The sandbox's user has no permission for it"),
    errno.EROFS: (403, "The file system is read-only; choose a path on another one"),
    errno.EEXIST: (409, "It exists already"),
    errno.ENOTEMPTY: (409, "The folder is not empty; ask for `recursive` to remove all of it"),
    errno.EISDIR: (409, "It is a folder"),
    errno.EBUSY: (409, "It is in use, as a mount or otherwise"),
    errno.ETXTBSY: (409, "It is a program that is running"),
    errno.EXDEV: (409, "It would have to move to another file system"),
    errno.EINVAL: (400, "The file system does not allow that name or change"),
    errno.ENAMETOOLONG: (400, "The name is too long for the file system"),
    errno.ELOOP: (400, "Its links lead in a circle"),
    errno.EFBIG: (413, "It is larger than the file system or a limit allows"),
    errno.ENOSPC: (507, "The disk is full; free some space and try again"),
    errno.EDQUOT: (507, "The user's disk quota is used up; free some space and try again"),
    errno.ENOMEM: (507, "There is not enough memory"),
    errno.EMFILE: (503, "Too many files are open; try again"),
    errno.ENFILE: (503, "Too many files are open; try again"),
}
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}

Found = dict[str, Any]


def located(text: str, folder: str) -> Path:
    """The absolute path that ``text`` means; relative ones start at ``folder``."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise HTTPError(422, "path contains half of a surrogate pair, which is no name.") from error
    return Path(folder, text)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what the system refuses within into the right status and a sentence about ``path``."""
    try:
        yield
    except RecursionError as error:
        raise HTTPError(409, f"{text_of(path)}: Its folders are nested too deeply.") from error
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        status, reason = _STATUSES.get(error.errno or 0, (500, error.strerror or str(error)))
        raise HTTPError(status, f"{text_of(path)}: {reason}.") from error


def text_of(path: Path | str) -> str:
    """``path`` for people."""
    return os.fsencode(path).decode("utf-8", "replace")


def named(path: Path | str, key: str = "path") -> Found:
    """``path`` under ``key``, and its encoded form where that is not all of it."""
    raw = os.fsencode(path)
    try:
        return {key: raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {key: raw.decode("utf-8", "replace"), f"{key}_encoded": quote(raw)}


def etag(found: os.stat_result) -> str:
    """Changes whenever the file is replaced or written to, down to the clock of the file system."""
    return f'"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"'


def entry(path: Path, follow: bool = False, shown: Path | str | None = None) -> Found:
    """What is at ``path``, shown as ``shown``; raises `OSError`."""
    found = path.stat() if follow else path.lstat()
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "special")
    told = named(shown if shown is not None else path)
    told |= {"type": kind, "size": found.st_size, "mode": f"{stat.S_IMODE(found.st_mode):04o}"}
    told |= {"uid": found.st_uid, "gid": found.st_gid, "modified": found.st_mtime_ns / 1e9}
    if kind == "file":
        told["etag"] = etag(found)
    if kind == "link":
        told |= named(path.readlink(), "target")
    return told


def listing(
    folder: Path, recursive: bool, hidden: bool, limit: int, after: str
) -> tuple[list[Found], str | None]:
    """Up to ``limit`` entries below ``folder`` by name, after the relative path ``after``; where to go on.

    Memory depends on ``limit``, not on the folder. A folder that may not be read is shown without content.
    """
    entries: list[Found] = []
    start = tuple(after.split("/")) if after else ()
    last: str | None = None
    for path in _names(folder, start, recursive, hidden, limit + 1, top=True):
        if len(entries) == limit:
            return entries, last
        relative = str(path.relative_to(folder))
        # What was removed meanwhile is no longer an entry.
        with contextlib.suppress(OSError):
            entries.append(entry(path, shown=relative))
            last = relative
    return entries, None


def _names(
    folder: Path, after: tuple[str, ...], recursive: bool, hidden: bool, count: int, top: bool = False
) -> Iterator[Path]:
    """Paths in order, each folder before its content, of which at most ``count`` are wanted."""
    begin = os.fsencode(after[0]) if after else b""
    try:
        with os.scandir(folder) as scan:
            wanted = ((os.fsencode(each.name), _is_folder(each)) for each in scan)
            chosen = heapq.nsmallest(
                count, (each for each in wanted if each[0] >= begin and (hidden or each[0][:1] != b"."))
            )
    except OSError:
        if top:
            raise
        return
    for name, is_folder in chosen:
        path = folder / os.fsdecode(name)
        resumed = bool(after) and name == begin
        if not resumed:
            yield path
        if recursive and is_folder:
            yield from _names(path, after[1:] if resumed else (), recursive, hidden, count)


def _is_folder(found: os.DirEntry[str]) -> bool:
    try:
        return found.is_dir(follow_symlinks=False)
    except OSError:
        return False

"""A folder or file as an archive, made piece by piece as it is read: tar, tar.gz or zip. Blocking.

Modes, links, times and empty folders are kept; pipes, sockets and devices are left out. Members are named
relative to the folder. The formats that seek are written to a buffer that never does.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import GraftboxError
from graftbox.server.disk import open_regular

PIECE = 256 * 1024
FORMATS = ("tar", "tar.gz", "zip")
CONTENT_TYPES = {"tar": "application/x-tar", "tar.gz": "application/gzip", "zip": "application/zip"}
_OLDEST = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Member:
    """A file, folder or link at ``path``, named ``name`` in the archive."""

    name: str
    path: Path
    found: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.found.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.found.st_mode)


def members(root: Path, follow_files: bool = False) -> Iterator[Member]:
    """What is in ``root``, each folder before its content; ``root`` itself if it is a file.

    ``follow_files`` takes what a link leads to for the link, as far as that is a file. Raises `OSError`.
    """
    found = root.stat()
    if stat.S_ISDIR(found.st_mode):
        yield from _members(root, "", follow_files)
    elif stat.S_ISREG(found.st_mode):
        yield Member(root.name, root, found)


def _members(folder: Path, prefix: str, follow_files: bool) -> Iterator[Member]:
    with os.scandir(folder) as scan:
        names = sorted(each.name for each in scan)
    for name in names:
        path = folder / name
        try:
            member = Member(prefix + name, path, path.lstat())
            if follow_files and member.is_link:
                member = Member(prefix + name, path, path.stat())
                if member.is_folder:
                    continue
        except FileNotFoundError:
            continue
        if member.is_folder:
            yield member
            yield from _members(path, f"{prefix}{name}/", follow_files)
        elif member.is_link or stat.S_ISREG(member.found.st_mode):
            yield member


def check_readable(root: Path, follow_files: bool = False) -> None:
    """Raises `OSError` or `SpecialFileError` for what can't be read, before anything has been sent."""
    if not root.is_dir():
        open_regular(root).close()
    for member in members(root, follow_files):
        if not member.is_folder and not member.is_link:
            open_regular(member.path).close()


def packed(root: Path, form: str, follow_files: bool = False) -> Iterator[bytes]:
    """The archive's bytes; ``form`` is one of `FORMATS`."""
    if form == "zip":
        return _zip(root, follow_files)
    tar = _tar(root, follow_files)
    return _gzip(tar) if form == "tar.gz" else tar


def _content(member: Member) -> Iterator[bytes]:
    """Exactly as many bytes as the member is said to have, whatever happens to the file meanwhile."""
    left = member.found.st_size
    try:
        with open_regular(member.path) as file:
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
    except FileNotFoundError:
        pass
    while left:
        yield bytes(min(PIECE, left))
        left -= min(PIECE, left)


def _tar(root: Path, follow_files: bool) -> Iterator[bytes]:
    import tarfile

    linked: dict[tuple[int, int], str] = {}
    for member in members(root, follow_files):
        info = tarfile.TarInfo(member.name)
        info.mode, info.mtime = stat.S_IMODE(member.found.st_mode), member.found.st_mtime
        info.uid, info.gid = member.found.st_uid, member.found.st_gid
        inode = member.found.st_dev, member.found.st_ino
        if member.is_folder:
            info.type = tarfile.DIRTYPE
        elif member.is_link:
            info.type, info.linkname = tarfile.SYMTYPE, str(member.path.readlink())
        elif inode in linked and not follow_files:
            info.type, info.linkname = tarfile.LNKTYPE, linked[inode]
        else:
            info.size = member.found.st_size
            if member.found.st_nlink > 1:
                linked[inode] = member.name
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if info.type == tarfile.REGTYPE:
            yield from _content(member)
            yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _gzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import zlib

    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


class _Pipe(io.RawIOBase):
    """Collects what is written until it is taken."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer, as zipfile gives it
        self.parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        parts, self.parts = self.parts, []
        return b"".join(parts)


def _zip(root: Path, follow_files: bool) -> Iterator[bytes]:
    """Not compressed, as the model's: whoever wants that asks for tar.gz."""
    import time
    import zipfile

    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for member in members(root, follow_files):
            name = member.name + "/" * member.is_folder
            name = os.fsencode(name).decode("utf-8", "replace")
            info = zipfile.ZipInfo(name, max(time.localtime(member.found.st_mtime)[:6], _OLDEST))
            info.external_attr = member.found.st_mode << 16 | 0x10 * member.is_folder
            info.create_system = 3
            if member.is_folder:
                archive.writestr(info, b"")
            elif member.is_link:
                archive.writestr(info, os.fsencode(member.path.readlink()))
            else:
                info.file_size = member.found.st_size
                with archive.open(info, "w", force_zip64=info.file_size >= 1 << 31) as file:
                    for piece in _content(member):
                        file.write(piece)
                        yield pipe.take()
            yield pipe.take()
    yield pipe.take()


def steps(pieces: Iterator[bytes]) -> Callable[[], bytes]:
    """A function for another thread: the next piece of a good size, empty at the end."""

    def step() -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            for piece in pieces:
                parts.append(piece)
                size += len(piece)
                if size >= PIECE:
                    break
        except OSError as error:
            raise GraftboxError(f"The archive broke off: {error}") from error
        return b"".join(parts)

    return step

"""Archives unpacked into a folder: all of one, or nothing. Blocking.

Members are written to a new folder inside the target, and moved to their places once the whole archive was
read and found harmless. What leaves the target by its name or through a link, and what is no file, folder or
link, refuses the archive. Owners come from who unpacks, modes lose their set-user-ID bits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from graftbox.server.entries import text_of
from graftbox.server.request import HTTPError

MAX_MEMBERS = 1_000_000
MAX_RATIO = 200
"""How many times larger than the archive its content may be, beyond `FREE`."""
FREE = 256 * 1024 * 1024
"""Bytes that an archive of any size may unpack to."""
DEEPEST = 200
_PIECE = 256 * 1024
_LONGEST_LINK, _LONGEST_NAME = 4096, 255


def refused(name: str, reason: str) -> HTTPError:
    return HTTPError(400, f"The archive was refused, nothing of it is there: {text_of(name)!r} {reason}.")


@dataclass
class Staging:
    """The folder ``root`` that an archive is unpacked to; ``packed`` says how many bytes of it were read."""

    root: Path
    packed: Callable[[], int]
    count: int = 0
    size: int = 0
    links: set[PurePosixPath] = field(default_factory=set)
    folders: list[tuple[Path, int | None, float | None]] = field(default_factory=list)

    def place(self, name: str, folder: bool = False) -> Path:
        """Where the member goes, a folder or something else; its parents exist afterwards."""
        self.count += 1
        if self.count > MAX_MEMBERS:
            raise HTTPError(413, f"The archive has more than {MAX_MEMBERS} members. Send it in parts.")
        path = PurePosixPath(name.rstrip("/"))
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise refused(name, "leads out of the folder")
        if len(path.parts) > DEEPEST:
            raise refused(name[:100], f"is nested more than {DEEPEST} folders deep")
        if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
            raise refused(name[:100], f"has a part of more than {_LONGEST_NAME} bytes")
        if self.links.intersection(path.parents) or (path in self.links):
            raise refused(name, "lies behind or replaces a link of the same archive")
        place = self.root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise refused(name, "lies below a file of the same archive") from error
        if not folder and place.is_dir():
            is_root = place == self.root
            raise refused(name, "has no name" if is_root else "replaces a folder of the same archive")
        return place

    def folder(self, name: str, mode: int | None, modified: float | None) -> None:
        place = self.place(name, folder=True)
        if place.exists() and not place.is_dir():
            raise refused(name, "replaces a file of the same archive")
        place.mkdir(exist_ok=True)
        if place != self.root:
            self.folders.append((place, mode, modified))

    def file(self, name: str, content: IO[bytes], mode: int | None, modified: float | None) -> None:
        place = self.place(name)
        place.unlink(missing_ok=True)
        with place.open("xb") as file:
            while piece := content.read(_PIECE):
                self.size += len(piece)
                if self.size > FREE + MAX_RATIO * self.packed():
                    raise HTTPError(413, f"The archive was refused: it is {MAX_RATIO} times larger unpacked.")
                file.write(piece)
            if mode is not None:
                os.fchmod(file.fileno(), mode & 0o777)
        if modified is not None:
            os.utime(place, (modified, modified))

    def link(self, name: str, target: str) -> None:
        """A symbolic link; only to something in the folder."""
        place = self.place(name)
        if not target or "\0" in target or len(target) > _LONGEST_LINK:
            raise refused(name, "is a link to nowhere")
        reached = os.path.normpath(PurePosixPath(name).parent / target)
        if target.startswith("/") or reached.split("/")[0] == "..":
            raise refused(name, f"is a link out of the folder, to {text_of(target)!r}")
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        self.links.add(PurePosixPath(name))

    def hard_link(self, name: str, target: str) -> None:
        """Another name of a member that came before."""
        place, path = self.place(name), PurePosixPath(target)
        known = self.root / path
        outside = path.is_absolute() or ".." in path.parts or self.links.intersection(path.parents)
        if outside or not known.is_file() or known.is_symlink():
            raise refused(name, f"is a link to {text_of(target)!r}, which is no file of the same archive")
        if place != known:
            place.unlink(missing_ok=True)
            place.hardlink_to(known)

    def finish(self) -> None:
        """Modes and times of folders, once nothing more is written into them."""
        for path, mode, modified in reversed(self.folders):
            if modified is not None:
                os.utime(path, (modified, modified))
            if mode is not None:
                # Its owner must be able to move it to its place and to remove it again.
                path.chmod(mode & 0o777 | stat.S_IRWXU)


@contextlib.contextmanager
def staged(target: Path, packed: Callable[[], int]) -> Iterator[Staging]:
    """A `Staging` whose content is in ``target`` afterwards, unless something is raised within."""
    made = _make(target)
    try:
        root = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target))
        try:
            staging = Staging(root, packed)
            yield staging
            staging.finish()
            _check(root, target)
            _move(root, target)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _make(target: Path) -> list[Path]:
    """Makes the folder; what had to be made, deepest first."""
    made = [each for each in (target, *target.parents) if not each.exists()]
    target.mkdir(parents=True, exist_ok=True)
    return made


def _check(source: Path, target: Path) -> None:
    """That everything can be moved: raises a 409 where a file and a folder are in each other's way."""
    for path in source.iterdir():
        place = target / path.name
        if not os.path.lexists(place):
            continue
        one, other = path.lstat().st_mode, place.lstat().st_mode
        if stat.S_ISDIR(one) != stat.S_ISDIR(other):
            kinds = "a folder" if stat.S_ISDIR(one) else "no folder", "one" if stat.S_ISDIR(other) else "none"
            reason = f"is {kinds[0]} in the archive, but {kinds[1]} is there; remove it first"
            raise HTTPError(409, f"Nothing was unpacked: {text_of(place)} {reason}.")
        if stat.S_ISDIR(one):
            _check(path, place)


def _move(source: Path, target: Path) -> None:
    for path in list(source.iterdir()):
        place = target / path.name
        if stat.S_ISDIR(path.lstat().st_mode) and os.path.lexists(place):
            _move(path, place)
        else:
            path.rename(place)


class _Gunzip:
    """What ``stream`` holds, which must be whole: tarfile alone does not look at the checksums."""

    def __init__(self, stream: IO[bytes]) -> None:
        import zlib

        self.stream = stream
        self.fresh: Callable[[], Any] = partial(zlib.decompressobj, 16 + zlib.MAX_WBITS)
        self.unpacker = self.fresh()
        self.begun = False

    def read(self, size: int) -> bytes:
        while True:
            data = self.unpacker.unconsumed_tail or self.unpacker.unused_data or self.stream.read(size)
            if self.unpacker.eof and data:
                # Several gzip files in a row are one.
                self.unpacker = self.fresh()
            elif not data:
                if self.begun and not self.unpacker.eof:
                    raise EOFError("the compressed data is cut")
                return b""
            self.begun = True
            if found := self.unpacker.decompress(data, size):
                return found


def unpack_tar(stream: IO[bytes], target: Path, packed: Callable[[], int], compressed: bool) -> int:
    """Unpack what ``stream`` gives, which need not seek; the number of members. `HTTPError`, `OSError`."""
    import tarfile
    import zlib

    source: Any = _Gunzip(stream) if compressed else stream
    with staged(target, packed) as staging:
        try:
            with tarfile.open(fileobj=source, mode="r|", bufsize=_PIECE, errors="surrogateescape") as archive:
                for member in archive:
                    _take(archive, member, staging)
            # What follows the end is read too, so that the client gets to send all of it.
            while source.read(_PIECE):
                pass
        except (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError) as error:
            raise HTTPError(
                400, f"The body is no whole tar archive: {error}. Nothing was unpacked."
            ) from error
    return staging.count


def _take(archive: Any, member: Any, staging: Staging) -> None:
    name = member.name.removeprefix("./") or "."
    if member.isdir():
        staging.folder(name, member.mode, member.mtime)
    elif member.isreg():
        staging.file(name, archive.extractfile(member), member.mode, member.mtime)
    elif member.issym():
        staging.link(name, member.linkname)
    elif member.islnk():
        staging.hard_link(name, member.linkname.removeprefix("./"))
    else:
        raise refused(name, "is a device, pipe or socket")


def unpack_zip(file: BinaryIO, target: Path) -> int:
    """Unpack the archive in ``file``, which can seek; the number of members. `HTTPError`, `OSError`."""
    import zipfile
    import zlib

    size = file.seek(0, os.SEEK_END)
    with staged(target, lambda: size) as staging:
        try:
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    _take_zipped(archive, info, staging)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise _broken_zip(error) from error
        except (ValueError, OverflowError) as error:
            raise _broken_zip(error) from error
    return staging.count


def members(file: BinaryIO, target: Path) -> list[Path]:
    """Where the members of the zip archive in ``file`` go; empty where it is none that can be read."""
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            return [target / name for name in archive.namelist() if ".." not in name and "\0" not in name]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OverflowError, EOFError):
        return []


def _broken_zip(error: Exception) -> HTTPError:
    return HTTPError(400, f"The file is no zip archive that can be unpacked: {error}. Nothing was unpacked.")


def _take_zipped(archive: Any, info: Any, staging: Staging) -> None:
    import time

    # 0 stored, 8 deflated: all others are rare, and fail in ways of their own.
    if info.compress_type not in (0, 8):
        raise refused(info.filename, "is compressed by another method than deflate")
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    bits = stat.S_IMODE(mode) or None
    modified = time.mktime((*info.date_time, 0, 0, -1))
    # `ZipInfo.is_dir` may fail for an empty name.
    if info.filename.endswith("/"):
        staging.folder(info.filename, bits, modified)
    elif stat.S_ISLNK(mode):
        with archive.open(info) as content:
            staging.link(info.filename, os.fsdecode(content.read(_LONGEST_LINK + 1)))
    elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
        with archive.open(info) as content:
            staging.file(info.filename, content, bits, modified)
    else:
        raise refused(info.filename, "is a device, pipe or socket")

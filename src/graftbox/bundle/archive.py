"""Archives that a recipe takes from an address or a file: release tarballs and zip files, pinned by hash.

A recipe names one, and what of it goes where is said by the stage table's ``from-archive``::

    [[component.vscode.archive]]
    name = "openvscode-server"
    version = "1.109.5"
    strip = 1                                   # leading folders that are not part of the names
    amd64 = { from = "https://…/x64.tar.gz", sha256 = "…" }     # or a file, from the recipe's folder
    arm64 = { from = "downloads/arm64.tar.gz", sha256 = "…" }
"""

from __future__ import annotations

import lzma
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle.content import File, Link
from graftbox.errors import FormatError

LARGEST = 4 << 30
"""Bytes that an archive may unpack to: all of it is held in memory."""
Nodes = Iterator[tuple[str, File | Link]]


@dataclass(frozen=True)
class Origin:
    """Where one architecture's archive is from: ``address`` is a URL or an absolute path."""

    address: str
    sha256: str


@dataclass(frozen=True)
class Archive:
    """An archive that a recipe names; ``origins`` by architecture."""

    name: str
    version: str
    strip: int
    origins: tuple[tuple[str, Origin], ...]

    def origin(self, arch: str) -> Origin | None:
        return dict(self.origins).get(arch)


def nodes(path: Path, origin: str, strip: int, wanted: Callable[[str], bool] = lambda name: True) -> Nodes:
    """Each wanted file and link by its name below ``strip`` folders, in the archive's order.

    A hard link is a copy. Names and links that lead out of the archive, devices and the like, and an archive
    larger than `LARGEST` are a `FormatError`.
    """
    try:
        if tarfile.is_tarfile(path):
            yield from _of_tar(path, origin, strip, wanted)
        elif zipfile.is_zipfile(path):
            yield from _of_zip(path, origin, strip, wanted)
        else:
            raise ValueError("it is neither a tar archive (plain, gzip, bzip2, xz) nor a zip file")
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise FormatError(
            f"The archive {origin} ({path}) can't be used: {error}. Check what the recipe names."
        ) from error


def _of_tar(path: Path, origin: str, strip: int, wanted: Callable[[str], bool]) -> Nodes:
    size = 0
    with tarfile.open(path, mode="r:*") as archive:
        for member in archive:
            name = _stripped(member.name, strip)
            _check_kind(member)
            if not name or not wanted(name):
                continue
            if member.issym():
                yield name, Link(_checked_target(name, member.linkname))
            elif member.isreg() or member.islnk():
                source = archive.getmember(member.linkname) if member.islnk() else member
                size = _more(size, source.size)
                stream = archive.extractfile(source)
                assert stream is not None
                yield name, File(stream.read(), bool(source.mode & 0o100), origin)


def _check_kind(member: tarfile.TarInfo) -> None:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise ValueError(f"{member.name!r} is a device, a pipe or the like")
    if member.islnk():
        _stripped(member.linkname, 0)


def _of_zip(path: Path, origin: str, strip: int, wanted: Callable[[str], bool]) -> Nodes:
    size = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _stripped(info.filename, strip)
            if info.is_dir() or not name or not wanted(name):
                continue
            size = _more(size, info.file_size)
            mode = info.external_attr >> 16  # where the archive was made on Unix
            if mode & 0o170000 == 0o120000:
                yield name, Link(_checked_target(name, archive.read(info).decode()))
            else:
                yield name, File(archive.read(info), bool(mode & 0o100), origin)


def _stripped(name: str, strip: int) -> str:
    """The name without its first folders; empty for those themselves."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or not name:
        raise ValueError(f"it has a member called {name!r}, which leads out of it")
    parts = [part for part in parts if part not in ("", ".")]
    return "/".join(parts[strip:])


def _checked_target(name: str, target: str) -> str:
    """A link's target, which stays inside of what is unpacked."""
    reached = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if target.startswith("/") or reached == ".." or reached.startswith("../"):
        raise ValueError(f"its link {name!r} leads out of it, to {target!r}")
    return target


def _more(size: int, further: int) -> int:
    if size + further > LARGEST:
        raise ValueError(f"it unpacks to more than {LARGEST} bytes")
    return size + further


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in the form that recipes and locks have it."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None

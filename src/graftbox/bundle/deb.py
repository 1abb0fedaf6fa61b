"""Reads ``.deb`` files: an ar archive whose member ``data.tar`` holds the files (deb(5)).

Streams; never runs a maintainer script. Names come out without a leading ``./``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from graftbox.bundle.content import File, Link
from graftbox.errors import FormatError, UnsupportedError

AR_MAGIC = b"!<arch>\n"
HEADER = 60


class _Section:
    """The part of a file that is one ar member, as something that can be read from front to back."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.left = stream, size

    def read(self, size: int = -1) -> bytes:
        wanted = self.left if size < 0 else min(size, self.left)
        data = self.stream.read(wanted)
        self.left -= len(data)
        return data


def nodes(path: Path, origin: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, File | Link]]:
    """Each wanted file and link of a ``.deb``, in its order. ``origin`` names the package in messages."""
    try:
        with path.open("rb") as stream:
            yield from _members(_data(stream, origin), origin, wanted)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FormatError(
            f"The package {origin} ({path}) is damaged: {error}. Delete it and build again."
        ) from error


def _data(stream: IO[bytes], origin: str) -> IO[bytes]:
    """The decompressed ``data.tar`` of the ar archive in ``stream``."""
    if stream.read(len(AR_MAGIC)) != AR_MAGIC:
        raise ValueError("not an ar archive")
    while header := stream.read(HEADER):
        if len(header) < HEADER or header[58:] != b"`\n":
            raise ValueError("a member's header is cut off")
        name, size = header[:16].decode("ascii").rstrip(" /"), int(header[48:58])
        if not name.startswith("data.tar"):
            stream.seek(size + size % 2, 1)
            continue
        section = cast("IO[bytes]", _Section(stream, size))
        match name.removeprefix("data.tar"):
            case "":
                return section
            case ".xz":
                return cast("IO[bytes]", lzma.LZMAFile(section))
            case ".gz":
                return cast("IO[bytes]", gzip.GzipFile(fileobj=section))
            case ".bz2":
                return cast("IO[bytes]", bz2.BZ2File(section))
            case other:
                raise UnsupportedError(
                    f"The package {origin} is compressed as {other}, which graftbox cannot read."
                )
    raise ValueError("it has no data.tar")


def _members(
    data: IO[bytes], origin: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, File | Link]]:
    with tarfile.open(fileobj=data, mode="r|") as archive:
        for member in archive:
            name = member.name.removeprefix("./").strip("/")
            if ".." in name.split("/"):
                raise ValueError(f"it has a member called {member.name!r}")
            if not wanted(name):
                continue
            if member.issym():
                yield name, Link(member.linkname)
            elif member.islnk():
                raise ValueError(f"{name} is a hard link, which no wanted file was so far")
            elif member.isreg():
                content = archive.extractfile(member)
                assert content is not None
                yield name, File(content.read(), bool(member.mode & 0o100), origin)

"""Unpacking layers that we packed ourselves, on all cores: the gzip members of one, and several at once.

Links may be absolute and are kept as they are; owners become whoever unpacks.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import mmap
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import deflate

from graftbox.bundle.compression import ESTARGZ, GZIP, opened
from graftbox.bundle.estargz import LANDMARK, TOC
from graftbox.bundle.layers import LEVEL
from graftbox.bundle.parallel import in_order
from graftbox.errors import FormatError, NotFoundError

HEADER = bytes(deflate.gzip_compress(b"", LEVEL)[:10])
"""How each member of our gzip layers begins: no name, no time (RFC 1952, 2.3)."""
PIECE = 1 << 20


class StoppedError(Exception):
    """Somebody else's failure or Ctrl-C has ended the work; never leaves this package."""


def unpack(blob: Path, folder: Path, form: str, stop: threading.Event | None = None) -> None:
    """Unpacks a layer into an empty folder; ends soon with `StoppedError` once ``stop`` is set."""
    try:
        with plain(blob, form) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as archive:
            for member in archive:
                if stop is not None and stop.is_set():
                    raise StoppedError
                if not (form == ESTARGZ and member.name in (LANDMARK, TOC)):
                    _place(archive, member, folder / member.name)
            while stream.read(PIECE):  # what is left may be damaged too
                pass
    except FileNotFoundError as error:
        raise NotFoundError(
            f"The layer {blob.name} is no longer in the store. Run `graftbox bundle build`."
        ) from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, deflate.DeflateError) as error:
        raise FormatError(
            f"The layer {blob} is damaged: {error}. Delete it and run `graftbox bundle build`."
        ) from error


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(0o700)
        path.chmod(member.mode)
        return
    if member.issym():
        path.symlink_to(member.linkname)
        return
    data = archive.extractfile(member)
    if data is None:
        raise tarfile.ReadError(f"{member.name} is neither a file, a folder nor a symbolic link")
    with path.open("xb") as stream:
        while piece := data.read(PIECE):
            stream.write(piece)
        stream.flush()
        os.fchmod(stream.fileno(), member.mode)
        os.utime(stream.fileno(), (member.mtime, member.mtime))


@contextlib.contextmanager
def plain(blob: Path, form: str) -> Iterator[IO[bytes]]:
    """The layer's tar; on all cores if its members can be told apart."""
    if form == GZIP and blob.stat().st_size:
        with blob.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[: len(HEADER)] == HEADER:
                yield io.BufferedReader(_Joined(in_order(_decompressed, _members(data))), PIECE)
                return
    with opened(blob, form) as stream_of_one:
        yield stream_of_one


def _members(data: mmap.mmap) -> Iterator[bytes]:
    """The gzip members of a layer, each with the data that it holds compressed."""
    start = 0
    while start < len(data):
        end = data.find(HEADER, start + len(HEADER))
        end = len(data) if end < 0 else end
        yield data[start:end]
        start = end


def _decompressed(member: bytes) -> bytearray:
    # One that says so is not looked into by the library, and none of ours holds nothing.
    return deflate.gzip_decompress(member) or _cut_off()


def _cut_off() -> bytearray:
    raise EOFError("a part of it says that it holds nothing")


class _Joined(io.RawIOBase):
    """Pieces of bytes as one stream."""

    def __init__(self, pieces: Iterator[bytearray]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

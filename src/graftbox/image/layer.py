"""Layers as streams of tar members, whatever they are compressed with; every byte is checked on the way."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import subprocess
import tarfile
import threading
import zlib
from collections.abc import Iterator
from shutil import which
from typing import Any

from graftbox.errors import FormatError, UnsupportedError, VerificationError
from graftbox.image.blob import CHUNK, Blob


class _Reader(io.RawIOBase):
    """A stream of chunks as a file; counts and hashes what passes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""
        self.sha = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self.sha.update(chunk)
            self._rest = chunk
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def drain(self) -> None:
        """Reads what follows the end of the archive, so that its checks happen."""
        self._rest = b""
        for chunk in self._chunks:
            self.sha.update(chunk)


def decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The plain bytes of a gzip, zstd or plain stream, told apart by their first bytes."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= 4:
            break
    if first[:2] == b"\x1f\x8b":
        return _gunzip(first, chunks)
    if first[:4] == b"\x28\xb5\x2f\xfd":
        return _unzstd(first, chunks)
    return _joined(first, chunks)


def _joined(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from chunks


def _gunzip(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    inflate = zlib.decompressobj(31)
    for chunk in _joined(first, chunks):
        data = chunk
        while data:
            if inflate.eof:
                # pigz, eStargz and others write several gzip members after one another.
                inflate = zlib.decompressobj(31)
            plain = inflate.decompress(data, 4 * CHUNK)
            if plain:
                yield plain
            data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            if inflate.eof and not data.strip(b"\0"):
                break
    if not inflate.eof:
        raise EOFError("the gzip stream ends early")


def _unzstd(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            library = importlib.import_module(module)
        except ImportError:
            continue
        try:
            yield from _unzstd_here(library.ZstdDecompressor, first, chunks)
        except library.ZstdError as error:
            raise EOFError(str(error)) from error
        return
    program = which("zstd")
    if program is None:
        raise UnsupportedError(
            "This image has zstd layers, and neither Python (3.14 can) nor the package backports.zstd nor a "
            "zstd program is here to read them: pip install 'graftbox[zstd]', or apt install zstd."
        )
    yield from _unzstd_outside(program, first, chunks)


def _unzstd_here(decompressor: Any, first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    frame = decompressor()
    for chunk in _joined(first, chunks):
        data = chunk
        while data:
            if frame.eof:
                frame = decompressor()
            yield frame.decompress(data, 4 * CHUNK)
            while not frame.eof and not frame.needs_input:
                yield frame.decompress(b"", 4 * CHUNK)
            data = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("the zstd stream ends early")


def _unzstd_outside(program: str, first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    failure: list[BaseException] = []
    process = subprocess.Popen(
        [program, "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def feed() -> None:
        try:
            with stdin:
                for chunk in _joined(first, chunks):
                    stdin.write(chunk)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        while chunk := stdout.read(CHUNK):
            yield chunk
        thread.join()
        if failure and not isinstance(failure[0], BrokenPipeError):
            raise failure[0]
        if process.wait() != 0:
            raise EOFError("the zstd stream is damaged")
    finally:
        process.kill()
        process.wait()
        stdout.close()
        thread.join()


@contextlib.contextmanager
def damage_in_words(blob: Blob) -> Iterator[None]:
    """Re-raises what the decompressor and tar reader say about a layer as `FormatError`."""
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise FormatError(
            f"The layer {blob.digest} is damaged ({error}); nothing of it was kept. "
            "Pull or build the image again."
        ) from error


def members(blob: Blob) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a layer in order; read a file's bytes before the next one is asked for.

    At the end the blob's digest and the diff ID have been checked. Raises `FormatError` for what is not
    a complete tar, `VerificationError` for a complete one with other bytes. Reading a file's bytes can
    fail too: put the loop into `damage_in_words`.
    """
    with damage_in_words(blob):
        reader = _Reader(decompressed(blob.open()))
        buffered = io.BufferedReader(reader, CHUNK)
        with tarfile.open(fileobj=buffered, mode="r|", bufsize=CHUNK, errorlevel=2) as tar:
            while (member := tar.next()) is not None:
                yield tar, member
                # It would remember every member it has seen.
                tar.members = []  # type: ignore[attr-defined]  # typeshed leaves it out
        reader.drain()
    found = "sha256:" + reader.sha.hexdigest()
    if blob.diff_id and found != blob.diff_id:
        raise VerificationError(
            f"The layer {blob.digest} unpacks to {found} where the image's config says {blob.diff_id}; "
            "nothing of it was kept. The image was put together wrongly: build it again."
        )

"""Merging: several layers become one, of the bytes that they are compressed to already.

A layer of ours begins with a chunk that holds all its folders and ends with one that holds the tar's end (see
`layers`). The merged layer has the folders of all of them once, as layers may have no path twice (OCI
image-spec, layer.md, "Distributable Format"), then what each of them has between these chunks, then the end.
An eStargz layer has a table of offsets, so that one is packed again.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import deflate

from graftbox.bundle import compression, layers, verify
from graftbox.bundle.content import Folder
from graftbox.bundle.manifest import Layer
from graftbox.bundle.unpacking import plain
from graftbox.errors import FormatError, NotFoundError, VerificationError
from graftbox.store import CHUNK, Store

NAME = "components"
"""What the merged layer is called."""
BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, deflate.DeflateError, ValueError)


def merged(parts: Sequence[Layer], component: str, store: Store) -> Layer:
    """One layer with the files of ``parts``, lowest first, which have the same form and no file twice.

    Raises `NotFoundError`, `VerificationError` or `FormatError` for a part that is gone or damaged.
    """
    if parts[0].compression == compression.ESTARGZ:
        return _packed_again(parts, component, store)
    ends = [_ends(part, store) for part in parts]
    first = layers.folders({path for end in ends for path in end.paths})
    compressed_size = 0

    def blob() -> Iterator[bytes]:
        nonlocal compressed_size
        for piece in _pieces(first, parts, ends, store):
            compressed_size += len(piece)
            yield piece

    digest = store.put_stream(blob())
    sha, size = hashlib.sha256(first), len(first)
    for part, end in zip(parts, ends, strict=True):
        size += _add_rest(part, end, store, sha.update)
    sha.update(layers.END)
    return Layer(
        NAME,
        component,
        digest,
        "sha256:" + sha.hexdigest(),
        size + len(layers.END),
        compressed_size,
        sum(part.files for part in parts),
        parts[0].compression,
    )


@dataclass(frozen=True)
class _Ends:
    """The first chunk of a layer: its length in the tar and in the blob, and the folders in it, by path."""

    plain: int
    packed: int
    paths: frozenset[str]


def _ends(part: Layer, store: Store) -> _Ends:
    with _damage_named(part, store), store.blob_path(part.digest).open("rb") as stream:
        data, packed = _first_chunk(stream.read, part.compression)
        names = set()
        with tarfile.open(fileobj=io.BytesIO(data + layers.END)) as archive:
            for member in archive:
                if not member.isdir():
                    raise ValueError("its folders do not come first")
                names.add(member.name.removeprefix(layers.PREFIX).removeprefix("/"))
    return _Ends(len(data), packed, frozenset(names - {""}))


def _first_chunk(read: Callable[[int], bytes], form: str) -> tuple[bytes, int]:
    """What the blob's first gzip member or zstd frame holds, and how long that is."""
    # 16: with a gzip header (zlib.h, inflateInit2).
    reader = (
        compression.zstd().ZstdDecompressor() if form == compression.ZSTD else zlib.decompressobj(16 + 15)
    )
    found, taken = bytearray(), 0
    while not reader.eof and (data := read(CHUNK)):
        taken += len(data)
        found += reader.decompress(data)
    if not reader.eof:
        raise EOFError("it ends too early")
    return bytes(found), taken - len(reader.unused_data)


def _pieces(first: bytes, parts: Sequence[Layer], ends: Sequence[_Ends], store: Store) -> Iterator[bytes]:
    """The merged blob, piece by piece."""
    form = parts[0].compression
    (last,) = layers.compressed([layers.END], form)
    yield from layers.compressed([first], form)
    for part, end in zip(parts, ends, strict=True):
        yield from _between(part, end.packed, len(last), store)
    yield last


def _between(part: Layer, start: int, end: int, store: Store) -> Iterator[bytes]:
    """A blob without its first and last bytes; the whole of it is checked against its digest."""
    sha, place = hashlib.sha256(), 0
    stop = part.compressed_size - end
    with store.blob_path(part.digest).open("rb") as stream:
        while data := stream.read(CHUNK):
            sha.update(data)
            piece = data[max(start - place, 0) : max(stop - place, 0)]
            place += len(data)
            if piece:
                yield piece
    if (found := f"sha256:{sha.hexdigest()}") != part.digest:
        raise VerificationError(
            f"The layer {part.name} is {found} instead of {part.digest}. {_again(part, store)}"
        )


def _add_rest(part: Layer, end: _Ends, store: Store, update: Callable[[bytes], None]) -> int:
    """Hands over the tar of a layer without its first chunk and its end; returns how many bytes that was."""
    left = size = part.size - end.plain - len(layers.END)
    with _damage_named(part, store), plain(store.blob_path(part.digest), part.compression) as stream:
        skipped = 0
        while skipped < end.plain:
            skipped += len(stream.read(min(CHUNK, end.plain - skipped)) or _cut_off())
        while left:
            data = stream.read(min(CHUNK, left)) or _cut_off()
            update(data)
            left -= len(data)
        if stream.read(CHUNK) != layers.END or stream.read(1):
            raise ValueError("its tar does not end as we write it")
    return size


def _cut_off() -> bytes:
    raise EOFError("it ends too early")


@contextlib.contextmanager
def _damage_named(part: Layer, store: Store) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(
            f"The layer {part.digest} is not in the store. Run `graftbox bundle build`."
        ) from error
    except BROKEN as error:
        raise FormatError(f"The layer {part.name} is damaged: {error}. {_again(part, store)}") from error


def _again(part: Layer, store: Store) -> str:
    return f"Delete {store.blob_path(part.digest)} and run `graftbox bundle build`."


def _packed_again(parts: Sequence[Layer], component: str, store: Store) -> Layer:
    contents = (verify.read(part, store) for part in parts)
    paths = {path for content in contents for path, node in content.items() if isinstance(node, Folder)}

    def entries() -> Iterator[layers.Entry]:
        yield from layers.folder_entries(paths)
        for part in parts:
            yield from layers.file_entries(verify.read(part, store))

    return layers.write_estargz(NAME, component, entries(), sum(part.files for part in parts), store)

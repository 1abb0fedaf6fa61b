"""Layers: content as a deterministic tar, compressed so that every machine makes the same bytes.

The tar has all folders first, then files and links, both with sorted names; one time, root as owner, and
modes 0755 and 0644. It is cut into chunks that are compressed on all cores as gzip members or zstd frames one
after the other, which RFC 1952 (2.2) and RFC 8878 (3) make one valid file. The folders are the first chunk
and the tar's end is the last one, so that what is between them can go into another layer as it is (see
`merging`). The output of libdeflate and libzstd depends on their version and level only, never on the CPU.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator

import deflate

from graftbox.bundle import compression, estargz
from graftbox.bundle.content import Content, File, Folder, Link, Node, with_parents
from graftbox.bundle.manifest import Layer
from graftbox.bundle.parallel import in_order
from graftbox.store import Store

PREFIX = "openhands"
# 2000-01-01: not 0, which tar and others complain about.
MTIME = 946684800
CHUNK = 4 << 20
# Measured on the core layer's 85 MB with two cores: level 6 gives 32.2 MB in 1.5 s, 8 gives 32.0 MB in 2 s,
# 10 gives 31.1 MB in 5 to 7 s and 12 no less in 9 s or more; those 3 % are not worth a fourth of the build.
LEVEL = 8
# On the same 85 MB: level 3 gives 32.0 MB in 0.7 s, 9 gives 29.0 MB in 4 s, 15 gives 28.7 MB in 35 s and 19
# gives 26.2 MB in 49 s; chunks of 16 MB give 2 % less. Whoever chooses zstd packs once and sends often.
ZSTD_LEVEL, ZSTD_CHUNK = 19, 16 << 20
BLOCK = 512
END = bytes(2 * BLOCK)
"""How a tar ends (POSIX, pax)."""

Entry = tuple[tarfile.TarInfo, bytes]
"""A member of the tar, and its data."""


def write(name: str, component: str, content: Content, store: Store, form: str = compression.GZIP) -> Layer:
    """Packs ``content`` in one of `compression.FORMS` and puts the blob into the store."""
    if form == compression.ESTARGZ:
        return write_estargz(name, component, _entries(content), _count(content), store)
    sha = hashlib.sha256()
    size = 0
    compressed_size = 0

    def chunks() -> Iterator[bytes]:
        nonlocal size
        for chunk in _chunks(content, ZSTD_CHUNK if form == compression.ZSTD else CHUNK):
            sha.update(chunk)
            size += len(chunk)
            yield chunk

    def counted() -> Iterator[bytes]:
        nonlocal compressed_size
        for data in compressed(chunks(), form):
            compressed_size += len(data)
            yield data

    digest = store.put_stream(counted())
    diff_id = "sha256:" + sha.hexdigest()
    return Layer(name, component, digest, diff_id, size, compressed_size, _count(content), form)


def write_estargz(name: str, component: str, entries: Iterable[Entry], files: int, store: Store) -> Layer:
    """Packs members, folders first, as eStargz; ``files`` is how many are none."""
    archive = estargz.Archive(entries, _member, MTIME)
    digest = store.put_stream(archive.blob())
    return Layer(
        name,
        component,
        digest,
        archive.diff_id,
        archive.size,
        archive.compressed_size,
        files,
        compression.ESTARGZ,
        archive.toc_digest,
    )


def _count(content: Content) -> int:
    return sum(not isinstance(node, Folder) for node in content.values())


def compressed(chunks: Iterable[bytes], form: str = compression.GZIP) -> Iterator[bytes]:
    """Each chunk as a gzip member or zstd frame, in order; a few chunks are under way at a time."""
    if form == compression.ZSTD:
        compress = compression.zstd().compress
        return in_order(lambda chunk: bytes(compress(chunk, ZSTD_LEVEL)), chunks)
    return in_order(_member, chunks)


def _member(chunk: bytes) -> bytes:
    return bytes(deflate.gzip_compress(chunk, LEVEL))


def _chunks(content: Content, length: int) -> Iterator[bytes]:
    """The layer's tar in pieces: the folders, the rest cut every ``length``, the end."""
    yield folders(_folders(content))
    buffer = bytearray()
    for info, data in file_entries(content):
        buffer += estargz.header(info)
        buffer += data
        buffer += estargz.padding(data)
        while len(buffer) >= length:
            yield bytes(buffer[:length])
            del buffer[:length]
    if buffer:
        yield bytes(buffer)
    yield END


def tar(content: Content) -> Iterator[bytes]:
    """The uncompressed layer, piece by piece."""
    return _chunks(content, CHUNK)


def folders(paths: Iterable[str]) -> bytes:
    """How the tar of a layer with these folders begins; each comes after the one that holds it."""
    return b"".join(estargz.header(info) for info, _ in folder_entries(paths))


def folder_entries(paths: Iterable[str]) -> Iterator[Entry]:
    """The same as members; ``paths`` are those of a `Content`."""
    yield _info(PREFIX, Folder()), b""
    for path in sorted(paths, key=lambda path: path.split("/")):
        yield _info(f"{PREFIX}/{path}", Folder()), b""


def _entries(content: Content) -> Iterator[Entry]:
    yield from folder_entries(_folders(content))
    yield from file_entries(content)


def _folders(content: Content) -> Iterator[str]:
    return (path for path, node in with_parents(content) if isinstance(node, Folder))


def file_entries(content: Content) -> Iterator[Entry]:
    """The files and links."""
    for path, node in with_parents(content):
        if not isinstance(node, Folder):
            yield _info(f"{PREFIX}/{path}", node), node.data if isinstance(node, File) else b""


def _info(path: str, node: Node) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mtime = MTIME
    match node:
        case File(data, executable):
            info.size, info.mode = len(data), 0o755 if executable else 0o644
        case Link(target):
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        case Folder():
            info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info

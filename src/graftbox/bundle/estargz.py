"""eStargz: a gzip layer whose files can be fetched one by one, with a table of contents at its end.

Every file's data begins a gzip member of its own, and so does every `CHUNK` of a large file; the tar headers
up to the next data are at the end of the member before. The last file of the tar is the table (TOC), and a
footer of fixed size says where it begins. To everybody else it is an ordinary gzip layer with two more
files, the TOC and a landmark.
Source: containerd/stargz-snapshotter, docs/estargz.md (format version 1).
"""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from graftbox.bundle.parallel import in_order

TOC = "stargz.index.json"
# Nothing is to be fetched ahead: the server's start needs the same few files whatever runs later.
LANDMARK = ".no.prefetch.landmark"
LANDMARK_DATA = b"\x0f"
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
"""The annotation of the layer's descriptor that the snapshotter checks the table with."""
UNPACKED_SIZE = "io.containers.estargz.uncompressed-size"
"""The same for CRI-O and Podman, whose store has to know the tar's size beforehand."""
CHUNK = 4 << 20
TYPES = {tarfile.REGTYPE: "reg", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink"}


@dataclass
class Archive:
    """An eStargz blob as it is written: what is known of it grows with the blob.

    ``entries`` are the tar's members and their data; ``compress`` makes one gzip member of its argument.
    """

    entries: Iterable[tuple[tarfile.TarInfo, bytes]]
    compress: Callable[[bytes], bytes]
    mtime: int
    diff_id: str = ""
    size: int = 0
    """Bytes of the tar."""
    compressed_size: int = 0
    toc_digest: str = ""
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def blob(self) -> Iterator[bytes]:
        """The blob, piece by piece; the other fields are right after its end."""
        offset = 0
        plain = hashlib.sha256()
        for member, data, digest in in_order(self._packed, self._members()):
            if member.row is not None:
                member.row.update(offset=offset, chunkDigest=digest)
            plain.update(member.data)
            self.size += len(member.data)
            offset += len(data)
            yield data
        toc = json.dumps({"version": 1, "entries": self._rows}, separators=(",", ":")).encode()
        tail = header(_file(TOC, self.mtime, toc)) + toc + padding(toc) + b"\0" * (2 * tarfile.BLOCKSIZE)
        plain.update(tail)
        self.size += len(tail)
        self.diff_id = "sha256:" + plain.hexdigest()
        self.toc_digest = "sha256:" + hashlib.sha256(toc).hexdigest()
        end = self.compress(tail) + footer(offset)
        self.compressed_size = offset + len(end)
        yield end

    def _packed(self, member: _Member) -> tuple[_Member, bytes, str]:
        digest = "sha256:" + hashlib.sha256(member.data[: member.payload]).hexdigest()
        return member, self.compress(member.data), digest

    def _members(self) -> Iterator[_Member]:
        """The tar without its end, cut where gzip members begin."""
        row: dict[str, Any] | None = None
        payload, buffer = 0, bytearray()
        landmark = _file(LANDMARK, self.mtime, LANDMARK_DATA)
        for info, data in ((landmark, LANDMARK_DATA), *self.entries):
            buffer += header(info)
            for new, chunk in rows(info, data):
                self._rows.append(new)
                if not chunk:
                    continue
                if buffer:
                    yield _Member(bytes(buffer), row, payload)
                row, payload, buffer = new, len(chunk), bytearray(chunk)
            buffer += padding(data)
        yield _Member(bytes(buffer), row, payload)


@dataclass(frozen=True)
class _Member:
    """What becomes one gzip member: ``payload`` bytes of a file's data, listed in ``row``, then headers."""

    data: bytes
    row: dict[str, Any] | None
    payload: int


def rows(info: tarfile.TarInfo, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """A tar member's lines in the table, each with the data that it stands for.

    Offsets and the digests of chunks are filled in when the data has been compressed.
    """
    row: dict[str, Any] = {
        "name": info.name + "/" * info.isdir(),
        "type": TYPES[info.type],
        "modtime": datetime.fromtimestamp(info.mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
    }
    if info.issym():
        row["linkName"] = info.linkname
    if not data:
        yield row, b""
        return
    row |= {"size": len(data), "digest": "sha256:" + hashlib.sha256(data).hexdigest()}
    for start in range(0, len(data), CHUNK):
        if start:
            row = {"name": info.name, "type": "chunk", "chunkOffset": start}
        chunk = data[start : start + CHUNK]
        if start + CHUNK < len(data):  # the last one goes to the file's end, which is written as no size
            row["chunkSize"] = len(chunk)
        yield row, chunk


def footer(offset: int) -> bytes:
    """The last 51 bytes: an empty gzip member whose extra field says where the table's member begins."""
    subfield = b"%016xSTARGZ" % offset
    extra = b"SG" + struct.pack("<H", len(subfield)) + subfield
    head = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", len(extra)) + extra
    return head + b"\x01\x00\x00\xff\xff" + bytes(8)


def header(info: tarfile.TarInfo) -> bytes:
    """A member's header blocks in the one form that we write."""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(data: bytes) -> bytes:
    return b"\0" * (-len(data) % tarfile.BLOCKSIZE)


def _file(name: str, mtime: int, data: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, mtime
    return info

"""Blobs on their way from one place to another, and the two protocols that places implement."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from graftbox.errors import VerificationError
from graftbox.image.manifest import Descriptor, Document

CHUNK = 1 << 20
METADATA_LIMIT = 32 << 20
"""Bytes; a config or manifest larger than this is refused instead of read into memory."""


@dataclass(frozen=True)
class Blob:
    """A blob that a target may take over: how to read it, and where it may already be.

    ``open`` yields verified bytes: it raises `VerificationError` at the end if they were wrong, so a
    target must not make them visible before the stream has ended. ``diff_id`` is set for layers.
    """

    descriptor: Descriptor
    open: Callable[[], Iterator[bytes]]
    diff_id: str | None = None
    path: Path | None = None
    """The whole blob as a local file that never changes: it may be hard-linked."""
    registry: tuple[str, str] | None = None
    """Host and repository that hold it: it may be mounted from there."""

    @property
    def digest(self) -> str:
        return self.descriptor.digest

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Blob:
        """A small blob in memory."""
        return cls(Document(data, media_type).descriptor, lambda: iter([data]))

    @classmethod
    def of_file(cls, path: Path, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        """A blob in a local file."""
        return cls(descriptor, lambda: verified(file_chunks(path), descriptor, str(path)), diff_id, path)


class Source(Protocol):
    """A place that an image is read from."""

    synthetic: bool
    """The place keeps no manifests: one is made up, and the config's digest is the image's identity."""

    def resolve(self) -> Document:
        """The manifest or index that the reference names; `NotFoundError` if it names nothing."""
        ...

    def manifest(self, descriptor: Descriptor) -> Document:
        """A manifest that an index names."""
        ...

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        """A blob that a manifest names; nothing is read yet."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Sized(Protocol):
    """A source that can tell, without reading it, how large a blob is that it holds."""

    def size(self, descriptor: Descriptor) -> int | None:
        """Bytes; None if the blob is not there."""
        ...


class Target(Protocol):
    """A place that an image is written to."""

    parallel: int
    """How many blobs `put` may take at once, from several threads."""

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        """Stores the manifest if everything it names is there, else returns the blobs that are not.

        ``blobs`` is the config, then the layers, lowest first. ``top`` is False for one platform of
        an index, which is stored by digest only; an index itself comes last with its own bytes,
        no config and no blobs.
        """
        ...

    def put(self, blob: Blob) -> int:
        """Takes one blob over and returns the bytes that were sent for it: 0 if linked or mounted."""
        ...

    def finish(self) -> None:
        """Makes the result visible under its name. Without this call nothing of it is."""
        ...

    def close(self) -> None:
        """Lets go; drops what is half-written if `finish` was not called."""
        ...


def read(blob: Blob) -> bytes:
    """All of a small blob (a config), verified; `VerificationError` if it claims to be huge."""
    if blob.descriptor.size > METADATA_LIMIT:
        raise VerificationError(
            f"The image's config {blob.digest} claims {blob.descriptor.size} bytes; that is no image config."
        )
    try:
        return b"".join(blob.open())
    except VerificationError:
        # Damaged on the way, perhaps: what is damaged where it is kept will be so again.
        return b"".join(blob.open())


def file_chunks(path: Path, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
    """The file's bytes, or ``size`` of them from ``offset``."""
    with path.open("rb") as stream:
        stream.seek(offset)
        left = size
        while left is None or left > 0:
            chunk = stream.read(CHUNK if left is None else min(CHUNK, left))
            if not chunk:
                return
            left = None if left is None else left - len(chunk)
            yield chunk


def verified(chunks: Iterable[bytes], descriptor: Descriptor, where: str) -> Iterator[bytes]:
    """Passes the stream on and raises `VerificationError` at its end unless size and digest are right."""
    sha, size = hashlib.sha256(), 0
    for chunk in chunks:
        sha.update(chunk)
        size += len(chunk)
        if size > descriptor.size >= 0:
            break
        yield chunk
    if size != descriptor.size:
        how = "ends after" if size < descriptor.size else "goes on after"
        raise VerificationError(
            f"{descriptor.digest} from {where} {how} {min(size, descriptor.size)} of {descriptor.size} "
            "bytes; nothing of it was kept. Run the command again; if that fails too, the image is damaged."
        )
    if (digest := "sha256:" + sha.hexdigest()) != descriptor.digest:
        raise VerificationError(
            f"{where} holds {digest} where {descriptor.digest} was expected; nothing of it was kept. "
            "The image is damaged there: pull or build it again."
        )

"""Writes one tar that every engine loads: an OCI layout and a ``docker save`` archive over the same blobs."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from graftbox.image.blob import Blob
from graftbox.image.layout import MARKER, REF_NAME, disk, with_image
from graftbox.image.manifest import OCI_INDEX, Document, serialise
from graftbox.image.reference import image_name
from graftbox.store import file_place


def tar_header(name: str, size: int) -> bytes:
    """The header of a regular file that belongs to root and has no time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def tar_entry(name: str, size: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A whole member: header, ``size`` bytes, padding."""
    yield tar_header(name, size)
    yield from chunks
    yield b"\0" * (-size % 512)


def blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def docker_listing(config: str, layers: Sequence[str], names: Sequence[str]) -> bytes:
    """``manifest.json`` as ``docker load`` reads it; config and layers by digest."""
    entry: dict[str, Any] = {"Config": blob_name(config), "RepoTags": list(names)}
    entry["Layers"] = [blob_name(layer) for layer in layers]
    return json.dumps([entry]).encode()


def engine_archive(
    manifest: Document,
    config: bytes,
    layers: Sequence[Blob],
    names: Sequence[str],
    layout: bool = True,
) -> Iterator[bytes]:
    """The archive of one image as a stream that Docker, podman and containerd load.

    It may lack layers that the engine has. Without ``layout``, it is for Docker only.
    """
    listing = docker_listing(manifest.config.digest, [one.digest for one in manifest.layers], names)
    yield from tar_entry("manifest.json", len(listing), [listing])
    yield from tar_entry(blob_name(manifest.config.digest), len(config), [config])
    if layout:
        index = with_image({"schemaVersion": 2, "mediaType": OCI_INDEX}, manifest, (), None)
        if names:
            name = str(image_name(names[0]))
            # containerd reads the first, podman the second as the image's whole name.
            annotations = {"io.containerd.image.name": name, REF_NAME: name}
            index["manifests"][0]["annotations"] = annotations
        data = serialise(index)
        yield from tar_entry("oci-layout", len(MARKER), [MARKER])
        yield from tar_entry("index.json", len(data), [data])
        yield from tar_entry(blob_name(manifest.digest), len(manifest.data), [manifest.data])
    for blob in {blob.digest: blob for blob in layers}.values():
        yield from tar_entry(blob_name(blob.digest), blob.descriptor.size, blob.open())
    yield b"\0" * 1024


class ArchiveTarget:
    """A tar file, written as a stream beside its final name and renamed when it is whole.

    ``tags`` are for ``index.json``, ``names`` (``team/app:1``) for ``docker load``.
    """

    parallel = 1

    def __init__(self, path: Path, tags: Sequence[str] = (), names: Sequence[str] = ()) -> None:
        self.path, self.tags, self.names = file_place(path), tuple(tags), tuple(names)
        self._index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
        self._listing: bytes | None = None
        self._written: set[str] = set()
        with disk(path):
            handle, temporary = tempfile.mkstemp(dir=self.path.absolute().parent, prefix=".graftbox-")
        self._temporary = Path(temporary)
        self._stream: IO[bytes] = os.fdopen(handle, "wb", buffering=1 << 20)
        self._add("oci-layout", len(MARKER), [MARKER])

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        missing = [blob for blob in blobs if blob.digest not in self._written]
        if missing:
            return list({blob.digest: blob for blob in missing}.values())
        self.put(Blob.of(manifest.data, manifest.media_type))
        if top:
            self._index = with_image(self._index, manifest, self.tags, None)
            if config:
                layers = [layer.digest for layer in manifest.layers]
                self._listing = docker_listing(manifest.config.digest, layers, self.names)
        return []

    def put(self, blob: Blob) -> int:
        if blob.digest not in self._written:
            self._add(blob_name(blob.digest), blob.descriptor.size, blob.open())
            self._written.add(blob.digest)
        return blob.descriptor.size

    def _add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        with disk(self.path):
            for piece in tar_entry(name, size, chunks):
                self._stream.write(piece)

    def finish(self) -> None:
        index = serialise(self._index)
        self._add("index.json", len(index), [index])
        if self._listing is not None:
            self._add("manifest.json", len(self._listing), [self._listing])
        with disk(self.path):
            self._stream.write(b"\0" * 1024)
            self._stream.flush()
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(self._stream.fileno(), 0o666 & ~umask)
            self._stream.close()
            self._temporary.replace(self.path)

    def close(self) -> None:
        self._temporary.unlink(missing_ok=True)
        try:
            self._stream.close()
        except OSError:
            # A full disk refuses the last buffered bytes of a file that is already gone.
            self._stream = io.BytesIO()

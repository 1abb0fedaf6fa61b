"""Images in tar files, read in place: ``docker save`` archives and tarred OCI layouts."""

from __future__ import annotations

import json
import posixpath
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from graftbox.errors import FormatError, NotFoundError, UnsupportedError, UsageError
from graftbox.image.blob import CHUNK, METADATA_LIMIT, Blob, Source, verified
from graftbox.image.layout import choose
from graftbox.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Descriptor,
    Document,
    document,
    parse_object,
    serialise,
)
from graftbox.image.reference import Reference, Transport, image_name


@dataclass(frozen=True)
class Extent:
    """Where a member's bytes lie in the archive."""

    offset: int
    size: int


class Archive:
    """A tar file's table of contents; only headers are read to make it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stream: IO[bytes] = path.open("rb")
            zipped = self._stream.read(2) == b"\x1f\x8b"
            self._stream.seek(0)
        except OSError as error:
            raise NotFoundError(f"Cannot open the archive {path}: {error.strerror}.") from error
        try:
            if zipped:
                self._stream = _plain(self._stream)
            self.members = self._scan()
        except (tarfile.TarError, zlib.error, EOFError) as error:
            self.close()
            raise FormatError(f"{path} is not a complete tar archive ({error}); make it again.") from error
        except BaseException:
            self.close()
            raise

    def _scan(self) -> dict[str, Extent]:
        members: dict[str, Extent] = {}
        links: dict[str, str] = {}
        with tarfile.open(fileobj=self._stream, mode="r:") as tar:
            for member in tar:
                name = posixpath.normpath(member.name)
                if member.isreg():
                    members[name] = Extent(member.offset_data, member.size)
                elif member.issym():
                    # docker save writes a layer that occurs twice as a link to its first occurrence.
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
        end = self._stream.seek(0, 2)
        for name, extent in members.items():
            if extent.offset + extent.size > end:
                raise FormatError(f"{self.path} ends in the middle of {name}; make it again.")
        return members | {name: members[to] for name, to in links.items() if to in members}

    def read(self, name: str) -> bytes:
        """A small member's bytes; `NotFoundError` if there is none of that name."""
        extent = self.extent(name)
        if extent.size > METADATA_LIMIT:
            raise FormatError(f"{name} in {self.path} is too large for image metadata.")
        return b"".join(self.chunks(extent))

    def extent(self, name: str) -> Extent:
        try:
            return self.members[posixpath.normpath(name)]
        except KeyError:
            raise NotFoundError(f"The archive {self.path} lacks {name}; make it again.") from None

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """A member's bytes."""
        position, end = extent.offset, extent.offset + extent.size
        while position < end:
            self._stream.seek(position)
            chunk = self._stream.read(min(CHUNK, end - position))
            if not chunk:
                return
            position += len(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _plain(stream: IO[bytes]) -> IO[bytes]:
    """A gzip archive, unpacked into a nameless temporary file: tar has no table of contents to seek by."""
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the archive
    with stream:
        inflate = zlib.decompressobj(31)
        while chunk := stream.read(CHUNK):
            plain.write(inflate.decompress(chunk))
        plain.write(inflate.flush())
        if not inflate.eof:
            plain.close()
            raise EOFError("the gzip stream ends early")
    plain.seek(0)
    return plain


def archive_source(reference: Reference) -> Source:
    """The source for an archive; either kind is recognised by its contents."""
    archive = Archive(reference.file)
    docker = reference.transport is Transport.DOCKER_ARCHIVE
    if docker and "manifest.json" in archive.members:
        return DockerArchiveSource(archive, reference.selector)
    if "index.json" in archive.members:
        selector = reference.name.tag if reference.name else reference.selector
        return OciArchiveSource(archive, selector)
    if "manifest.json" in archive.members:
        return DockerArchiveSource(archive, reference.selector)
    archive.close()
    raise FormatError(
        f"{reference.file} holds no image: it has neither manifest.json (docker save) nor index.json "
        "(OCI). Make one with docker save or skopeo copy."
    )


class OciArchiveSource:
    """A tarred OCI layout."""

    synthetic = False

    def __init__(self, archive: Archive, selector: str | None = None) -> None:
        self.archive, self.selector = archive, selector

    def resolve(self) -> Document:
        index = parse_object(self.archive.read("index.json"), f"index.json in {self.archive.path}")
        entry = choose(index, self.selector, f"the archive {self.archive.path}")
        return self.manifest(Descriptor.read(entry, f"index.json in {self.archive.path}"))

    def manifest(self, descriptor: Descriptor) -> Document:
        data = b"".join(self.blob(descriptor).open())
        return document(data, descriptor.media_type, str(self.archive.path))

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        extent = self.archive.extent(f"blobs/sha256/{descriptor.digest.removeprefix('sha256:')}")
        where = str(self.archive.path)
        return Blob(descriptor, lambda: verified(self.archive.chunks(extent), descriptor, where), diff_id)

    def size(self, descriptor: Descriptor) -> int | None:
        extent = self.archive.members.get(f"blobs/sha256/{descriptor.digest.removeprefix('sha256:')}")
        return extent.size if extent else None

    def close(self) -> None:
        self.archive.close()


class DockerArchiveSource:
    """What ``docker save`` and ``podman save`` write; its layers are mostly plain tars."""

    synthetic = True

    def __init__(self, archive: Archive, selector: str | None = None) -> None:
        self.archive, self.selector = archive, selector
        self._extents: dict[str, Extent] = {}

    def resolve(self) -> Document:
        entry = self._entry()
        config = self.archive.read(str(entry.get("Config")))
        rootfs = parse_object(config, f"The config in {self.archive.path}").get("rootfs")
        diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        files = entry.get("Layers") or []
        if not isinstance(files, list) or len(files) != len(diff_ids or []):
            raise FormatError(f"{self.archive.path} is damaged: its layers do not match its config.")
        layers = [self._layer(str(f), str(d)) for f, d in zip(files, diff_ids or [], strict=True)]
        named = Document(config, DOCKER_CONFIG).descriptor
        self._extents[named.digest] = self.archive.extent(str(entry["Config"]))
        body = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "digest": named.digest, "size": named.size},
            "layers": layers,
        }
        return Document(serialise(body), DOCKER_MANIFEST)

    def _entry(self) -> dict[str, Any]:
        try:
            listing = json.loads(self.archive.read("manifest.json"))
        except ValueError as error:
            raise FormatError(f"manifest.json in {self.archive.path} is not JSON: {error}") from error
        entries: list[dict[str, Any]] = [entry for entry in listing if isinstance(entry, dict)]
        tags = sorted({str(tag) for entry in entries for tag in entry.get("RepoTags") or []})
        if self.selector:
            entries = [e for e in entries if self.selector in {_normal(t) for t in e.get("RepoTags") or []}]
        if len(entries) != 1:
            what = "several images" if entries else f"no image {self.selector or ''}".rstrip()
            raise NotFoundError(
                f"{self.archive.path} holds {what}; it has {', '.join(tags) or 'no named one'}. Name one: "
                f"docker-archive:{self.archive.path}:NAME"
            )
        return entries[0]

    def _layer(self, name: str, diff_id: str) -> dict[str, Any]:
        extent = self.archive.extent(name)
        start = next(self.archive.chunks(Extent(extent.offset, min(extent.size, 4))), b"")
        kind, digest = DOCKER_LAYER, diff_id
        if start[:2] == b"\x1f\x8b":
            import hashlib

            sha = hashlib.sha256()
            for chunk in self.archive.chunks(extent):
                sha.update(chunk)
            kind, digest = f"{DOCKER_LAYER}.gzip", "sha256:" + sha.hexdigest()
        elif start == b"\x28\xb5\x2f\xfd":
            raise UnsupportedError(
                f"{self.archive.path} has zstd layers; write it as oci-archive: instead (skopeo copy)."
            )
        self._extents[digest] = extent
        return {"mediaType": kind, "digest": digest, "size": extent.size}

    def manifest(self, descriptor: Descriptor) -> Document:
        raise NotFoundError(f"{self.archive.path} holds no manifest {descriptor.digest}.")

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        extent, where = self._extents[descriptor.digest], str(self.archive.path)
        return Blob(descriptor, lambda: verified(self.archive.chunks(extent), descriptor, where), diff_id)

    def close(self) -> None:
        self.archive.close()


def _normal(tag: str) -> str:
    try:
        return str(image_name(tag))
    except UsageError:
        return tag

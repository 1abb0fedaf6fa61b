"""Images of containerd, through its program ``ctr``: blobs are read from and imported into its content store.

``ctr`` itself reads ``$CONTAINERD_ADDRESS``, ``$CONTAINERD_NAMESPACE`` and ``$CONTAINERD_SNAPSHOTTER``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graftbox.errors import NotFoundError, TransportError
from graftbox.image.archive_target import engine_archive
from graftbox.image.blob import Blob, verified
from graftbox.image.manifest import Descriptor, Document, document
from graftbox.image.program import Program
from graftbox.image.reference import ImageName
from graftbox.store import digest_of


def _ctr(namespace: str | None) -> Program:
    return Program(
        "ctr",
        *(["--namespace", namespace] if namespace else []),
        hint="It comes with containerd. Without it, write an archive and import that there: oci-archive:FILE",
    )


class ContainerdSource:
    """An image in containerd, read from its content store."""

    synthetic = False

    def __init__(self, name: ImageName, namespace: str | None = None) -> None:
        self.name, self._ctr = name, _ctr(namespace)

    def resolve(self) -> Document:
        for line in self._ctr.run("images", "ls", f"name=={self.name}").splitlines()[1:]:
            columns = line.split()
            if len(columns) > 2 and columns[0] == str(self.name):
                return self._document(columns[2], columns[1])
        raise NotFoundError(
            f"containerd has no image {self.name} (in this namespace; another is written "
            f"containerd:[k8s.io]{self.name}). Pull it with ctr images pull {self.name}"
        )

    def manifest(self, descriptor: Descriptor) -> Document:
        return self._document(descriptor.digest, descriptor.media_type)

    def _document(self, digest: str, media_type: str) -> Document:
        data = b"".join(self._read(digest))
        if digest_of(data) != digest:
            raise TransportError(f"containerd answered with {digest_of(data)} where {digest} was asked for.")
        return document(data, media_type, str(self.name))

    def _read(self, digest: str) -> list[bytes]:
        try:
            return list(self._ctr.read("content", "get", digest))
        except TransportError as error:
            raise self._in_words(error, digest) from error

    def _in_words(self, error: TransportError, digest: str) -> Exception:
        if "not found" not in str(error):
            return error
        return NotFoundError(
            f"containerd lacks {digest} of {self.name}: it keeps only what was pulled for this platform, and "
            "Kubernetes may be told to discard layers. Name the image in its registry instead."
        )

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        def chunks() -> Iterator[bytes]:
            try:
                yield from verified(
                    self._ctr.read("content", "get", descriptor.digest), descriptor, "containerd"
                )
            except TransportError as error:
                raise self._in_words(error, descriptor.digest) from error

        return Blob(descriptor, chunks, diff_id)

    def close(self) -> None:
        """Nothing is held open."""


class ContainerdTarget:
    """Imports images into containerd under ``names``; only layers that it lacks are sent."""

    parallel = 1

    def __init__(self, names: Sequence[str], namespace: str | None = None) -> None:
        self.names, self._ctr = tuple(names), _ctr(namespace)
        self._held: dict[str, Blob] = {}

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        if not self._held:
            there = set(self._ctr.run("content", "ls", "--quiet").split())
            missing = [blob for blob in blobs if blob.diff_id and blob.digest not in there]
            if missing:
                return missing
        archive = engine_archive(manifest, config, list(self._held.values()), self.names)
        if complaint := self._ctr.feed(archive, "images", "import", "-"):
            raise TransportError(f"containerd refused the image: {complaint}")
        return []

    def put(self, blob: Blob) -> int:
        """Remembers the blob for the stream."""
        self._held[blob.digest] = blob
        return blob.descriptor.size

    def finish(self) -> None:
        """``ctr images import`` gives one name; the others are added."""
        for name in self.names[1:]:
            self._ctr.run("images", "tag", "--force", self.names[0], name)

    def close(self) -> None:
        """Nothing is held open."""

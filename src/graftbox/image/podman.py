"""Images of podman and Buildah (containers/storage), through the program ``podman``.

``podman load`` takes an OCI archive that lacks layers which the storage has (c/image, TryReusingBlob), so
the archive is offered without layers first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from graftbox.errors import NotFoundError, TransportError, UnsupportedError
from graftbox.image.archive import Archive, DockerArchiveSource
from graftbox.image.archive_target import engine_archive
from graftbox.image.blob import Blob, Source
from graftbox.image.docker_daemon import Exported, inspected
from graftbox.image.manifest import Descriptor, Document
from graftbox.image.program import Program
from graftbox.image.reference import ImageName
from graftbox.store import Store, storage_errors

_MISSING = re.compile(r"blobs/sha256/([0-9a-f]{64}): no such file")


def _podman() -> Program:
    return Program(
        "podman",
        hint="Install podman, or write an archive that another machine's podman loads: oci-archive:FILE",
    )


def _inspect(podman: Program, name: ImageName) -> dict[str, Any]:
    try:
        facts = json.loads(podman.run("image", "inspect", str(name)))[0]
    except TransportError as error:
        if "no such image" not in str(error) and "not known" not in str(error):
            raise
        raise NotFoundError(
            f"podman has no image {name}. Pull it (podman pull {name}), or name it docker://{name} to read "
            "it from its registry."
        ) from error
    assert isinstance(facts, dict)
    return {**facts, "Id": f"sha256:{str(facts['Id']).removeprefix('sha256:')}"}


class PodmanSource:
    """What podman says about an image without exporting it: enough to graft it in the same storage."""

    synthetic = True

    def __init__(self, name: ImageName, store: Store) -> None:
        self.name = name
        self._podman, self._config = _podman(), b""

    def resolve(self) -> Document:
        facts = _inspect(self._podman, self.name)
        document, self._config = inspected(facts, facts.get("History") or [])
        return document

    def manifest(self, descriptor: Descriptor) -> Document:
        raise NotFoundError(f"podman shows no manifest {descriptor.digest}.")

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        if diff_id is None:
            return Blob(descriptor, lambda: iter([self._config]))
        return Blob(descriptor, self._unreadable, diff_id)

    def _unreadable(self) -> Iterator[bytes]:
        raise UnsupportedError(f"The layers of {self.name} were not exported from podman.")

    def close(self) -> None:
        """Nothing is held open."""


def exported_by_podman(name: ImageName, store: Store) -> Source:
    """The image with its layers, by ``podman save`` into a file that is nameless once it is open."""
    podman = _podman()
    _inspect(podman, name)
    with storage_errors(store.root), store.temporary_folder() as folder:
        path = folder / "image.tar"
        podman.run("save", "--quiet", "--format", "docker-archive", "--output", str(path), str(name))
        return Exported(DockerArchiveSource(Archive(path)))


class PodmanTarget:
    """Loads images into podman's storage under ``names`` (``docker.io/team/app:1``)."""

    parallel = 1

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._podman = _podman()
        self._held: dict[str, Blob] = {}

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        layers = [blob for blob in blobs if blob.diff_id]
        archive = engine_archive(manifest, config, list(self._held.values()), self.names)
        complaint = self._podman.feed(archive, "load", "--quiet")
        if complaint is None:
            return []
        found = _MISSING.search(complaint)
        missing = next((one for one in layers if found and one.digest.endswith(found[1])), None)
        left = [layer for layer in layers if layer.digest not in self._held]
        if missing is None or missing not in left:
            raise TransportError(f"podman refused the image: {complaint}")
        # Which layer is missed first is chance. The bundle's may be all; without the base's, none is there.
        ours = [layer for layer in left if layer.path is not None]
        return ours if missing in ours and not self._held else left

    def put(self, blob: Blob) -> int:
        """Remembers the blob for the next stream."""
        self._held[blob.digest] = blob
        return blob.descriptor.size

    def finish(self) -> None:
        """``podman load`` gives one name; the others are added."""
        if self.names[1:]:
            self._podman.run("tag", *self.names)

    def close(self) -> None:
        """Nothing is held open."""

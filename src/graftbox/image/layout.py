"""OCI layouts: folders with ``oci-layout``, ``index.json`` and ``blobs`` (image-spec, image-layout.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from graftbox.errors import FormatError, NotFoundError, StorageError
from graftbox.image.blob import METADATA_LIMIT, Blob
from graftbox.image.manifest import OCI_INDEX, Descriptor, Document, document, parse_object, serialise

REF_NAME = "org.opencontainers.image.ref.name"
MARKER = b'{"imageLayoutVersion":"1.0.0"}'


class LayoutSource:
    """An image in a layout; ``selector`` is a tag or digest, needed only when there are several images."""

    synthetic = False

    def __init__(self, folder: Path, selector: str | None = None) -> None:
        self.folder, self.selector = folder, selector

    def resolve(self) -> Document:
        index = _read_index(self.folder)
        entry = choose(index, self.selector, f"the OCI layout {self.folder}")
        return self.manifest(Descriptor.read(entry, f"{self.folder}/index.json"))

    def manifest(self, descriptor: Descriptor) -> Document:
        blob = self.blob(descriptor)
        data = b"".join(blob.open())
        return document(data, descriptor.media_type, f"{self.folder}")

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        path = _blob_path(self.folder, descriptor.digest)
        if not path.is_file():
            raise NotFoundError(
                f"The OCI layout {self.folder} lacks the blob {descriptor.digest}; copy the image again."
            )
        return Blob.of_file(path, descriptor, diff_id)

    def size(self, descriptor: Descriptor) -> int | None:
        path = _blob_path(self.folder, descriptor.digest)
        return path.stat().st_size if path.is_file() else None

    def close(self) -> None:
        """Nothing is held open."""


class LayoutTarget:
    """Writes images into a layout, made if missing; the image appears in ``index.json`` at the end.

    Blobs that exist on the same file system are hard-linked. Several writers may use one layout at once.
    """

    parallel = 1

    def __init__(self, folder: Path, tags: Sequence[str] = ()) -> None:
        self.folder, self.tags = folder, tuple(tags)
        self._top: Document | None = None
        self._platform: dict[str, str] | None = None
        with disk(folder):
            (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        missing = [blob for blob in blobs if not self._has(blob.descriptor)]
        if missing:
            return missing
        self.put(Blob.of(manifest.data, manifest.media_type))
        if top:
            self._top = manifest
            if config:
                facts = json.loads(config)
                self._platform = {
                    key: facts[key] for key in ("architecture", "os", "variant") if facts.get(key)
                }
        return []

    def put(self, blob: Blob) -> int:
        target = _blob_path(self.folder, blob.digest)
        if self._has(blob.descriptor):
            return 0
        if blob.path is not None and _link(blob.path, target):
            return 0
        with disk(self.folder):
            return _write(target, blob.open())

    def finish(self) -> None:
        assert self._top is not None, "finish() before an image was stored"
        with disk(self.folder), (self.folder / ".graftbox.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            marker = self.folder / "oci-layout"
            if not marker.exists():
                _write(marker, [MARKER])
            path = self.folder / "index.json"
            index = (
                _read_index(self.folder) if path.exists() else {"schemaVersion": 2, "mediaType": OCI_INDEX}
            )
            _write(path, [serialise(with_image(index, self._top, self.tags, self._platform))])

    def close(self) -> None:
        """Nothing is held open; blobs without a name in ``index.json`` are harmless."""

    def _has(self, descriptor: Descriptor) -> bool:
        try:
            return _blob_path(self.folder, descriptor.digest).stat().st_size == descriptor.size
        except FileNotFoundError:
            return False


def choose(index: dict[str, Any], selector: str | None, where: str) -> dict[str, Any]:
    """The entry of an ``index.json`` with this tag or digest; without one, the only entry."""
    entries = [entry for entry in index.get("manifests") or [] if isinstance(entry, dict)]
    names = sorted(
        {str(name) for entry in entries if (name := (entry.get("annotations") or {}).get(REF_NAME))}
    )
    if selector:
        entries = [
            entry
            for entry in entries
            if selector in {(entry.get("annotations") or {}).get(REF_NAME), entry.get("digest")}
        ]
    if not entries:
        what = f"no image {selector!r}" if selector else "no image"
        raise NotFoundError(f"There is {what} in {where}; it has {', '.join(names) or 'none with a tag'}.")
    if len({entry.get("digest") for entry in entries}) > 1:
        raise NotFoundError(
            f"There are several images in {where}; add one of these tags: {', '.join(names)}."
        )
    return entries[-1]


def with_image(
    index: dict[str, Any], image: Document, tags: Sequence[str], platform: dict[str, str] | None
) -> dict[str, Any]:
    """An ``index.json`` in which these tags (or the nameless entry, if none) name ``image``."""
    entry: dict[str, Any] = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.data)}
    if platform:
        entry["platform"] = platform
    names: Iterable[str | None] = tags or (None,)
    kept = [
        old
        for old in index.get("manifests") or []
        if not (isinstance(old, dict) and (old.get("annotations") or {}).get(REF_NAME) in names)
    ]
    added = [{**entry, "annotations": {REF_NAME: name}} if name else entry for name in names]
    return {**index, "manifests": kept + added}


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        if path.stat().st_size > METADATA_LIMIT:
            raise FormatError(f"{path} is too large for an OCI layout's index.")
        return parse_object(path.read_bytes(), f"{path}")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{folder} is not an OCI layout: it has no index.json.") from error


def _blob_path(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _link(source: Path, target: Path) -> bool:
    """A hard link, else a copy on write; False where neither is possible."""
    try:
        os.link(source, target)
        return True
    except FileExistsError:
        return _replace_by_link(source, target)
    except OSError:
        return False


def _replace_by_link(source: Path, target: Path) -> bool:
    # A blob of the wrong size is in the way: what an interrupted copy by another program leaves.
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(source, temporary)
        temporary.replace(target)
        return True
    except OSError:
        return False


def _write(path: Path, chunks: Iterable[bytes]) -> int:
    """Writes a file whole or not at all; returns its size."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".graftbox-")
    try:
        size = 0
        with os.fdopen(handle, "wb") as stream:
            for chunk in chunks:
                size += stream.write(chunk)
            os.fchmod(stream.fileno(), 0o644)
        Path(name).replace(path)
        return size
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Re-raises the disk's own errors as `StorageError`, naming what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"No space left while writing {path}; free some and run the command again."
            ) from error
        refused = (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError)
        if isinstance(error, refused) or error.errno == errno.EROFS:
            raise StorageError(
                f"Cannot write {path}: {error.strerror}. Choose a folder that exists and that you own."
            ) from error
        raise

"""Manifests, indexes and configs as bytes, and the media types that tie them together.

Sources: OCI image-spec 1.1 (manifest.md, image-index.md, descriptor.md), Docker image manifest v2 schema 2.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftbox.errors import FormatError, UnsupportedError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

ACCEPTED = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)
SCHEMA_1 = frozenset(
    f"application/vnd.docker.distribution.manifest.v1+{kind}" for kind in ("json", "prettyjws")
)

MANIFEST_LIMIT = 4 << 20
"""Bytes; what the distribution spec tells registries to accept at least, and most do at most."""


def layer_type(manifest_type: str, compression: str = "gzip") -> str:
    """The layer media type that belongs into a manifest of this type; they are never mixed."""
    if manifest_type == DOCKER_MANIFEST:
        if compression == "zstd":
            raise UnsupportedError("Docker schema 2 manifests cannot hold zstd layers; use gzip.")
        return f"{DOCKER_LAYER}.gzip" if compression == "gzip" else DOCKER_LAYER
    return f"{OCI_LAYER}+{compression}" if compression else OCI_LAYER


@dataclass(frozen=True)
class Descriptor:
    """A blob or manifest as another document names it; ``size`` in bytes."""

    media_type: str
    digest: str
    size: int

    @classmethod
    def read(cls, raw: Mapping[str, Any], where: str) -> Descriptor:
        """From its JSON; raises `FormatError` naming ``where`` it stood."""
        digest, size = raw.get("digest"), raw.get("size")
        if not isinstance(digest, str) or not isinstance(size, int) or size < 0:
            raise FormatError(f"{where} holds a descriptor without a digest or size: {str(raw)[:120]}")
        if not digest.startswith("sha256:") or len(digest) != 71 or set(digest[7:]) - set("0123456789abcdef"):
            raise UnsupportedError(f"{where} names {digest!r}; graftbox reads sha256 digests only.")
        return cls(str(raw.get("mediaType", "")), digest, size)

    @property
    def is_foreign(self) -> bool:
        """Layers that must not be stored with the image but fetched from their ``urls``."""
        return "foreign" in self.media_type or "nondistributable" in self.media_type


@dataclass(frozen=True)
class Document:
    """A manifest, index or config exactly as served; its bytes are never re-serialised."""

    data: bytes
    media_type: str

    @functools.cached_property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    @functools.cached_property
    def json(self) -> dict[str, Any]:
        """The parsed object; treat it as read-only."""
        return parse_object(self.data, "The manifest")

    @property
    def is_index(self) -> bool:
        return self.media_type in {OCI_INDEX, DOCKER_INDEX}

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.data))

    @property
    def config(self) -> Descriptor:
        """The config of an image manifest."""
        return Descriptor.read(_mapping(self.json.get("config"), "config"), "The manifest")

    @property
    def layers(self) -> list[Descriptor]:
        """The layers of an image manifest, lowest first."""
        return [Descriptor.read(_mapping(raw, "layers"), "The manifest") for raw in self.entries("layers")]

    def entries(self, key: str) -> list[Any]:
        """The list under ``key``; absent and null count as empty."""
        value = self.json.get(key)
        if value is not None and not isinstance(value, list):
            raise FormatError(f"The manifest's {key!r} is not a list.")
        return value or []


def _mapping(value: object, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"The manifest's {key!r} does not hold a descriptor.")
    return value


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object; raises `FormatError` for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object.")
    return value


def serialise(value: object) -> bytes:
    """The one byte form of a document that we make: sorted keys, no spaces, UTF-8."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except ValueError as error:
        raise FormatError(f"The image's metadata cannot be written as JSON again: {error}") from error


_OCI_NAMES = {
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_INDEX: OCI_INDEX,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    f"{DOCKER_LAYER}.gzip": f"{OCI_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}


def as_oci(original: Document) -> Document:
    """The same manifest or index in OCI's types, for OCI layouts: skopeo finds no other type in them.

    Blobs keep their digests; the manifest itself gets a new one.
    """
    if original.media_type not in {DOCKER_MANIFEST, DOCKER_INDEX}:
        return original

    def renamed(entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        kind = entry.get("mediaType")
        return {**entry, "mediaType": _OCI_NAMES.get(kind, kind)} if isinstance(kind, str) else entry

    body = {**original.json, "mediaType": _OCI_NAMES[original.media_type]}
    for key in ("layers", "manifests"):
        if key in body:
            body[key] = [renamed(entry) for entry in original.entries(key)]
    if "config" in body:
        body["config"] = renamed(body["config"])
    return Document(serialise(body), _OCI_NAMES[original.media_type])


def document(data: bytes, media_type: str | None, where: str) -> Document:
    """A manifest or index with its true type, which may be missing or generic in the header.

    Raises `UnsupportedError` for schema 1 and artifacts that are not images.
    """
    parsed = parse_object(data, f"The manifest of {where}")
    declared = parsed.get("mediaType")
    kind = (
        declared if isinstance(declared, str) and declared else (media_type or "").partition(";")[0].strip()
    )
    if kind in SCHEMA_1 or parsed.get("schemaVersion") == 1:
        raise UnsupportedError(
            f"{where} has a schema 1 manifest, a format retired in 2017. Pull and push it again with a "
            "current Docker or skopeo, which converts it."
        )
    if kind not in ACCEPTED:
        if isinstance(parsed.get("manifests"), list):
            kind = OCI_INDEX
        elif isinstance(parsed.get("layers"), list) and isinstance(parsed.get("config"), dict):
            config_type = parsed["config"].get("mediaType")
            kind = DOCKER_MANIFEST if config_type == DOCKER_CONFIG else OCI_MANIFEST
        else:
            raise UnsupportedError(f"{where} is no container image: its manifest has the type {kind!r}.")
    if kind in {OCI_MANIFEST, DOCKER_MANIFEST}:
        config = parsed.get("config")
        config_type = config.get("mediaType") if isinstance(config, dict) else None
        if config_type not in (OCI_CONFIG, DOCKER_CONFIG, None, ""):
            raise UnsupportedError(f"{where} is an artifact of type {config_type!r}, not a container image.")
    return Document(data, kind)

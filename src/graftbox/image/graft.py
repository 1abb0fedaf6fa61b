"""The graft: (base manifest and config, bundle layers, options) -> runtime manifest and config.

Pure: bytes in, bytes out; no clock, file or socket. The same input gives the same bytes, and grafting
an image that already carries a bundle replaces that bundle instead of adding a second one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftbox.errors import FormatError, UnsupportedError
from graftbox.image.manifest import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Document,
    as_oci,
    layer_type,
    parse_object,
    serialise,
)

SERVER = ("/openhands/bin/action-execution-server",)
EARLIER_SERVER = ("/openhands/bin/init", "--", *SERVER)
"""What earlier versions made the entrypoint."""

BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_ENTRYPOINT = "io.graftbox.base.entrypoint"
BASE_CMD = "io.graftbox.base.cmd"
BASE_USER = "io.graftbox.base.user"
BUNDLE = "io.graftbox.bundle"
COMPONENTS = "io.graftbox.components"
LAYERS = "io.graftbox.layers"
VERSION = "io.graftbox.version"
FLAVOR = "io.graftbox.flavor"
OWN_LABELS = (BASE_ENTRYPOINT, BASE_CMD, BASE_USER, BUNDLE, COMPONENTS, FLAVOR, LAYERS, VERSION)
BASE_LABELS = (BASE_NAME, BASE_DIGEST, BASE_ENTRYPOINT, BASE_CMD, BASE_USER)
"""What is recorded of the base."""
ANNOTATIONS = (BASE_NAME, BASE_DIGEST)
"""The labels that the manifest has too, because OCI defines them there; it is sent once for each tag."""

SHORT = 12
"""Digits of a hash that tells the bundle's layers from others; all 64 would only make images larger."""

MERGED = 2
"""Layers of a merged bundle: the components, and the server."""

NO_TIME = "1970-01-01T00:00:00Z"


def is_merged(components: Sequence[str], layers: str) -> bool:
    """Whether the bundle of these ``components`` is a merged one, by the label `LAYERS`."""
    return len(components) > 1 and layers.partition(":")[0] == str(MERGED)


@dataclass(frozen=True)
class BundleLayer:
    """One layer of the bundle; ``size`` is the tar's bytes, ``compressed_size`` the blob's."""

    name: str
    component: str
    digest: str
    diff_id: str
    size: int
    compressed_size: int
    compression: str = "gzip"
    """``gzip`` or ``zstd``: what the media type says."""
    annotations: tuple[tuple[str, str], ...] = ()
    """Of the layer's descriptor: what lazy-pulling snapshotters need of an eStargz layer."""

    @property
    def is_oci_only(self) -> bool:
        """Docker's types have none for zstd, and no annotations."""
        return self.compression == "zstd" or bool(self.annotations)


@dataclass(frozen=True)
class Bundle:
    """The ``/openhands`` folder for one CPU architecture (``amd64``, ``arm64``), lowest layer first."""

    arch: str
    digest: str
    version: str
    components: tuple[str, ...]
    layers: tuple[BundleLayer, ...]
    lock: str = ""
    """Digest of the lock that it was made from."""
    flavor: str = "tree"
    """``tree``, or ``pyinstaller``: the server as one binary."""
    fewer: Callable[[], Bundle] | None = field(default=None, compare=False, repr=False)
    """Makes the same files come in fewer layers, for bases that leave no room for these."""

    @property
    def is_oci_only(self) -> bool:
        """Whether an image with it must have OCI types, also where its base has Docker's."""
        return any(layer.is_oci_only for layer in self.layers)


@dataclass(frozen=True)
class Options:
    """What a user may choose about a runtime image."""

    base_name: str
    """For the ``base.name`` label: where the base came from."""
    base_digest: str | None = None
    """For the ``base.digest`` label; None for scratch."""
    user: str | None = None
    """Replaces the config's User when not None."""
    keep_entrypoint: bool = False
    """Run the base's own entrypoint as a supervised child of the server."""
    oci_types: bool = False
    """Give the manifest OCI types even if the base has Docker's; OCI layouts, zstd and eStargz need that."""


@dataclass(frozen=True)
class Image:
    """An image of one platform, as the exact bytes of its manifest and config."""

    manifest: Document
    config: bytes


@dataclass(frozen=True)
class Carried:
    """The bundle that an image has been given; ``layers`` are its layers' places in the image."""

    digest: str
    components: tuple[str, ...]
    flavor: str
    layers: slice


def carried(config: bytes) -> Carried | None:
    """The bundle of a runtime image, from its config; None for an image that was never grafted."""
    facts = parse_object(config, "The image's config")
    labels = _labels(facts)
    layers = _earlier_graft(labels, list(_object(facts, "rootfs").get("diff_ids") or []))
    if BUNDLE not in labels or layers.start == layers.stop:
        return None
    components = tuple(labels.get(COMPONENTS, "").split(","))
    return Carried(labels[BUNDLE], components, labels.get(FLAVOR, Bundle.flavor), layers)


def scratch(arch: str) -> Image:
    """The empty image."""
    config: dict[str, Any] = {"architecture": arch, "os": "linux", "created": NO_TIME, "config": {}}
    config["history"] = []
    config["rootfs"] = {"type": "layers", "diff_ids": []}
    data = serialise(config)
    body: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}
    body["config"] = _renamed({"mediaType": OCI_CONFIG}, data)
    return Image(Document(serialise(body), OCI_MANIFEST), data)


def graft(base: Image, bundle: Bundle, options: Options) -> Image:
    """The runtime image of ``base``.

    Raises `UnsupportedError` for an image of another OS or architecture, `FormatError` for a base
    whose manifest and config contradict one another.
    """
    if options.oci_types or bundle.is_oci_only:
        base = Image(as_oci(base.manifest), base.config)
    manifest = dict(base.manifest.json)
    config = parse_object(base.config, "The image's config")
    check_platform(config, bundle.arch, options.base_name)
    layers = list(base.manifest.entries("layers"))
    diff_ids = _diff_ids(config, len(layers))
    history = _history(config, len(layers))
    labels = _labels(config)

    cut = _earlier_graft(labels, diff_ids)
    del layers[cut], diff_ids[cut]
    if history is not None:
        history = _without(history, cut)
    runtime = _process(_object(config, "config"), labels, bundle, options)

    for layer in bundle.layers:
        layers.append(_descriptor(layer, base.manifest.media_type))
        diff_ids.append(layer.diff_id)
        if history is not None:
            history.append(_event(layer, config.get("created")))
    config["config"] = runtime
    config["rootfs"] = {**_object(config, "rootfs"), "type": "layers", "diff_ids": diff_ids}
    config.pop("history", None)
    if history is not None:
        config["history"] = history
    data = serialise(config)

    manifest["layers"] = layers
    manifest["config"] = _renamed(_object(manifest, "config"), data)
    if base.manifest.media_type != DOCKER_MANIFEST:
        names = (BASE_NAME, BASE_DIGEST, *OWN_LABELS)
        kept = {k: v for k, v in _object(manifest, "annotations").items() if k not in names}
        labels = runtime["Labels"]
        manifest["annotations"] = kept | {k: labels[k] for k in ANNOTATIONS if k in labels}
    return Image(Document(serialise(manifest), base.manifest.media_type), data)


def check_platform(config: dict[str, Any], arch: str, name: str) -> None:
    """Raises `UnsupportedError` unless the config is of Linux and of this architecture."""
    system, machine = config.get("os") or "linux", config.get("architecture")
    if system != "linux":
        raise UnsupportedError(f"{name} is an image for {system}; graftbox works on Linux images only.")
    if machine != arch:
        raise UnsupportedError(
            f"{name} is an image for linux/{machine}, and the bundle is for linux/{arch}; "
            f"graft it with --platform linux/{machine}, or name an image for linux/{arch}."
        )


def _process(
    process: dict[str, Any], labels: dict[str, str], bundle: Bundle, options: Options
) -> dict[str, Any]:
    """The config's ``config`` part: what is started, as whom, and the labels that record the base's."""
    process = dict(process)
    entrypoint, cmd = _words(process, "Entrypoint"), _words(process, "Cmd")
    user = process.get("User") or ""
    name, digest = options.base_name, options.base_digest
    if BUNDLE in labels:
        # The base of the base counts, unless someone built on top and chose an entrypoint of their own.
        if any(entrypoint[: len(words)] == list(words) for words in (SERVER, EARLIER_SERVER)):
            entrypoint = _recorded(labels, BASE_ENTRYPOINT)
            cmd = _recorded(labels, BASE_CMD)
        user = labels.get(BASE_USER, user)
        name, digest = labels.get(BASE_NAME, name), labels.get(BASE_DIGEST)
    kept = {k: v for k, v in labels.items() if k not in (*OWN_LABELS, BASE_NAME, BASE_DIGEST)}
    kept |= {
        BASE_NAME: name,
        BASE_ENTRYPOINT: _compact(entrypoint),
        BASE_CMD: _compact(cmd),
        BUNDLE: bundle.digest,
        COMPONENTS: ",".join(bundle.components),
        LAYERS: mark([layer.diff_id for layer in bundle.layers]),
        VERSION: bundle.version,
    }
    if bundle.flavor != Bundle.flavor:
        kept[FLAVOR] = bundle.flavor
    if digest:
        kept[BASE_DIGEST] = digest
    if options.user is not None:
        kept[BASE_USER] = user
        user = options.user
    process["Labels"] = kept
    if user or "User" in process:
        process["User"] = user
    process["Entrypoint"] = list(SERVER)
    process.pop("Cmd", None)
    if options.keep_entrypoint and (entrypoint or cmd):
        process["Entrypoint"] = [*SERVER, "--", *entrypoint]
        if cmd:
            process["Cmd"] = cmd
    return process


def _recorded(labels: dict[str, str], key: str) -> list[str]:
    try:
        value = json.loads(labels.get(key, "[]"))
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FormatError(f"The image's label {key} is damaged; graft the original base image instead.")
    return value


def _compact(words: Sequence[str]) -> str:
    return json.dumps(list(words), separators=(",", ":"), ensure_ascii=False)


def mark(diff_ids: Sequence[str]) -> str:
    """What tells these layers among others: ``COUNT:HASH``."""
    return f"{len(diff_ids)}:{hashlib.sha256(','.join(diff_ids).encode()).hexdigest()[:SHORT]}"


def _earlier_graft(labels: dict[str, str], diff_ids: list[str]) -> slice:
    """Where the layers of an earlier graft are; an empty slice if there are none."""
    wanted = labels.get(LAYERS, "")
    number, colon, _ = wanted.partition(":")
    # Earlier versions listed the first digits of each layer's diff ID.
    count = int(number) if number.isdecimal() and len(number) < SHORT else wanted.count(",") + 1
    for start in range(len(diff_ids) - count, -1, -1) if wanted else ():
        there = diff_ids[start : start + count]
        if wanted == (mark(there) if colon else ",".join(diff_id[7:][:SHORT] for diff_id in there)):
            return slice(start, start + count)
    return slice(0, 0)


def _diff_ids(config: dict[str, Any], layers: int) -> list[str]:
    value = _object(config, "rootfs").get("diff_ids") or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError("The image's config holds no list of diff IDs; the base image is damaged.")
    if len(value) != layers:
        raise FormatError(
            f"The base image is damaged: its manifest has {layers} layers, its config {len(value)} diff IDs."
        )
    return list(value)


def _history(config: dict[str, Any], layers: int) -> list[Any] | None:
    """The history if it can be kept consistent, else None: old tools refuse a wrong count, not none."""
    value = config.get("history")
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return None if layers else []
    if sum(not entry.get("empty_layer") for entry in value) != layers:
        return None if layers else []
    return list(value)


def _without(history: list[Any], cut: slice) -> list[Any]:
    """The history without the entries of these layers."""
    kept, layer = [], 0
    for entry in history:
        if entry.get("empty_layer"):
            kept.append(entry)
            continue
        if not cut.start <= layer < cut.stop:
            kept.append(entry)
        layer += 1
    return kept


def _descriptor(layer: BundleLayer, manifest_type: str) -> dict[str, Any]:
    kind = layer_type(manifest_type, layer.compression)
    descriptor = {"mediaType": kind, "digest": layer.digest, "size": layer.compressed_size}
    return descriptor | ({"annotations": dict(layer.annotations)} if layer.annotations else {})


def _event(layer: BundleLayer, created: object) -> dict[str, str]:
    # OCI asks for none of it, but `docker history` of Docker 25 and 26 fails without a time (moby 47729).
    return {
        "created": created if isinstance(created, str) else NO_TIME,
        "created_by": f"graftbox graft {layer.name}",
    }


def _renamed(descriptor: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The descriptor with another content; an embedded copy of the old content goes."""
    size_and_name = Document(data, "").descriptor
    kept = {key: value for key, value in descriptor.items() if key != "data"}
    return kept | {"digest": size_and_name.digest, "size": size_and_name.size}


def _object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    if value is not None and not isinstance(value, dict):
        raise FormatError(f"The base image is damaged: {key!r} is not a JSON object.")
    return value or {}


def _labels(config: dict[str, Any]) -> dict[str, str]:
    labels = _object(_object(config, "config"), "Labels")
    return {key: value for key, value in labels.items() if isinstance(value, str)}


def _words(process: dict[str, Any], key: str) -> list[str]:
    value = process.get(key)
    if isinstance(value, str):
        return [value]
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FormatError(f"The base image is damaged: its {key} is not a list of words.")
    return value


def graft_index(
    index: Document, children: dict[str, Document], bundle_digest: str, options: Options
) -> Document:
    """The index with the children (keyed by base digest) replaced, and all others dropped.

    Attestation manifests go as well: they speak of the base's digests.
    """

    if options.oci_types:
        index = as_oci(index)
    body = dict(index.json)
    entries = []
    for entry in index.entries("manifests"):
        child = children.get(entry.get("digest", "")) if isinstance(entry, dict) else None
        if child is not None:
            entries.append({**_renamed(entry, child.data), "mediaType": child.media_type})
    body["manifests"] = entries
    if index.media_type == OCI_INDEX:
        annotations = dict(_object(body, "annotations"))
        if BUNDLE not in annotations:
            annotations[BASE_NAME] = options.base_name
            if options.base_digest:
                annotations[BASE_DIGEST] = options.base_digest
        annotations[BUNDLE] = bundle_digest
        body["annotations"] = annotations
    return Document(serialise(body), index.media_type)

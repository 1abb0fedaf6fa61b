"""Images made of a few small files, for tests that need one and not a particular one."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from graftbox.image.blob import Blob
from graftbox.image.graft import Bundle, BundleLayer
from graftbox.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Document,
    serialise,
)
from graftbox.image.platforms import machine_architecture
from graftbox.store import Store, digest_of

# A shell that starts the tests in the background has them, and every program they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A run finds what the run before found, however busy the machine; who asks for more gets other examples.
settings.register_profile(
    "graftbox",
    derandomize=not any(name.startswith("GRAFTBOX_FUZZ_") for name in os.environ),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("graftbox")

Member = bytes | str | tarfile.TarInfo
"""A file's content; ``-> target`` a symbolic link, ``=> target`` a hard one, ``/`` a folder; or anything."""


def make_tar(files: Mapping[str, Member]) -> bytes:
    """A tar of these files, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            data = b""
            if isinstance(content, tarfile.TarInfo):
                member = content
                member.name = name
            elif isinstance(content, bytes):
                data, member.mode = content, 0o755
            elif content == "/":
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                kind, _, target = content.partition(" ")
                member.type = {"->": tarfile.SYMTYPE, "=>": tarfile.LNKTYPE}[kind]
                member.linkname, member.mode = target, 0o755
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class Layout:
    """An OCI layout that tests put images into."""

    folder: Path
    entries: list[dict[str, Any]] = field(default_factory=list)

    def blob(self, data: bytes) -> str:
        path = self.folder / "blobs" / "sha256" / digest_of(data).removeprefix("sha256:")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest_of(data)

    def image(
        self,
        layers: Sequence[Mapping[str, Member]] = (),
        *,
        tag: str | None = "base",
        arch: str = "amd64",
        docker: bool = False,
        process: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> Document:
        """Adds an image of these layers and returns its manifest; no tag adds it without a name."""
        tars = [make_tar(files) for files in layers]
        config = {
            "architecture": arch,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": dict(process or {}),
            "history": [{"created_by": f"layer {n}"} for n in range(len(tars))],
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
            **config,
        }
        layer_type = f"{DOCKER_LAYER}.gzip" if docker else f"{OCI_LAYER}+gzip"
        blobs = [gzip.compress(tar, 1, mtime=0) for tar in tars]
        data = json.dumps(config).encode()
        body = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": self._entry(DOCKER_CONFIG if docker else OCI_CONFIG, data),
            "layers": [self._entry(layer_type, blob) for blob in blobs],
        }
        manifest = Document(json.dumps(body, indent=3).encode(), str(body["mediaType"]))
        entry = self._entry(manifest.media_type, manifest.data)
        if tag:
            self.add(entry, tag)
        return manifest

    def index(self, children: Mapping[str, Document], *, tag: str = "base", docker: bool = False) -> Document:
        """Adds an index; children by platform (``linux/arm64/v8``)."""
        entries = []
        for platform, child in children.items():
            keys = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
            entries.append({**self._entry(child.media_type, child.data), "platform": keys})
        kind = DOCKER_INDEX if docker else OCI_INDEX
        document = Document(serialise({"schemaVersion": 2, "mediaType": kind, "manifests": entries}), kind)
        self.add(self._entry(kind, document.data), tag)
        return document

    def add(self, entry: dict[str, Any], tag: str) -> None:
        """Names a manifest or index in ``index.json``."""
        self.entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self.folder / "index.json").write_bytes(serialise({"schemaVersion": 2, "manifests": self.entries}))

    def _entry(self, media_type: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.blob(data), "size": len(data)}


@pytest.fixture
def tar_of() -> Callable[[Mapping[str, Member]], bytes]:
    """Makes a tar of some files: `make_tar`."""
    return make_tar


@pytest.fixture
def layer_of() -> Callable[[Mapping[str, Member]], Blob]:
    """Makes a gzip layer of some files."""

    def make(files: Mapping[str, Member]) -> Blob:
        tar = make_tar(files)
        blob = Blob.of(gzip.compress(tar, mtime=0), f"{OCI_LAYER}+gzip")
        return Blob(blob.descriptor, blob.open, digest_of(tar))

    return make


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty OCI layout."""
    folder = tmp_path / "layout"
    folder.mkdir()
    return Layout(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty cache."""
    return Store(tmp_path / "cache")


def make_bundle(store: Store, arch: str = "amd64", salt: str = "") -> Bundle:
    """Two small layers in the cache that stand for the real bundle."""
    layers = []
    for name in ("core", "server"):
        tar = make_tar({"openhands": "/", f"openhands/{name}": f"{name} {arch} {salt}".encode() * 2000})
        blob = gzip.compress(tar, mtime=0)
        layers.append(BundleLayer(name, "core", store.put(blob), digest_of(tar), len(tar), len(blob)))
    digest = digest_of(serialise([layer.digest for layer in layers]))
    return Bundle(arch, digest, "0.1.0", ("core",), tuple(layers))


@pytest.fixture
def bundle(store: Store) -> Bundle:
    """A bundle for amd64, its layers in ``store``."""
    return make_bundle(store)


@pytest.fixture
def arm_bundle(store: Store) -> Bundle:
    """A bundle for arm64, its layers in ``store``."""
    return make_bundle(store, "arm64")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, store: Store, bundle: Bundle, arm_bundle: Bundle) -> Bundle:
    """A machine on which a small bundle is built already."""
    from graftbox.cli import graft as graft_command

    arch = machine_architecture()
    ours = arm_bundle if arch == "arm64" else bundle
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))
    monkeypatch.setattr(graft_command, "bundles", lambda *_, **__: {arch: ours})
    return ours


@pytest.fixture
def other_bundle(store: Store) -> Bundle:
    """A later bundle for amd64."""
    return make_bundle(store, salt="later")

"""Images that are written into the storage of docker-registry: quicker than pushing thousands of them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import make_tar
from tests.integration.conftest import Registry

from graftbox.image.manifest import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def plant(
    registry: Registry,
    name: str,
    count: int,
    docker: bool = False,
    base: bytes | None = None,
    arch: str = "amd64",
) -> Iterator[str]:
    """Writes distinct images into the storage of Debian's docker-registry; their references.

    They have one and the same layer; with ``base``, that tar and a small layer of each one's own.
    """
    tar = base or make_tar({"etc/name": name.encode() * 1000})
    diff_id = str(entry_of(tar)["digest"])
    layer = _blob(registry.root, name, gzip.compress(tar, 1, mtime=0))
    for number in range(count):
        diff_ids, layers = [diff_id], [layer]
        if base is not None:
            own = make_tar({"etc/number": str(number).encode()})
            diff_ids.append(str(entry_of(own)["digest"]))
            layers.append(_blob(registry.root, name, gzip.compress(own, 1, mtime=0)))
        config = {
            "architecture": arch,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"], "Labels": {"number": str(number)}},
            "history": [{"created_by": "benchmark"} for _ in layers],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        kind, config_kind = (DOCKER_MANIFEST, DOCKER_CONFIG) if docker else (OCI_MANIFEST, OCI_CONFIG)
        layer_kind = OCI_LAYER
        if docker:
            layer_kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        body = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": _blob(registry.root, name, json.dumps(config).encode()) | {"mediaType": config_kind},
            "layers": [entry | {"mediaType": layer_kind} for entry in layers],
        }
        manifest = json.dumps(body).encode()
        digest = str(_blob(registry.root, name, manifest)["digest"])
        manifests = registry.root / "docker/registry/v2/repositories" / name / "_manifests"
        link(manifests / "revisions/sha256" / digest[7:], digest)
        link(manifests / f"tags/b{number}/current", digest)
        link(manifests / f"tags/b{number}/index/sha256" / digest[7:], digest)
        yield f"{registry.address}/{name}:b{number}"


def entry_of(data: bytes) -> dict[str, Any]:
    return {"digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}


def _blob(root: Path, name: str, data: bytes) -> dict[str, Any]:
    entry = entry_of(data)
    hexdigits = entry["digest"][7:]
    folder = root / "docker/registry/v2/blobs/sha256" / hexdigits[:2] / hexdigits
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").write_bytes(data)
    link(root / "docker/registry/v2/repositories" / name / "_layers/sha256" / hexdigits, entry["digest"])
    return entry


def link(folder: Path, digest: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").write_text(digest)

"""Measures grafts in a registry: one connection, a batch with 8 jobs, and the same batch again.

The bases are distinct and cheap: one layer, and configs that differ in one label, written into the local
registry's storage. Requests pass no proxy; bytes are counted where they leave the client.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.conftest import make_bundle, make_tar
from tests.integration.conftest import Registry, running_registry

from benchmarks.measure import Figure, table
from graftbox.image import batch
from graftbox.image.manifest import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.tags import Choice, repository
from graftbox.image.transports import Access
from graftbox.store import Store

ONE_BY_ONE = 100
BATCH = 1000
JOBS = 8


def plant(registry: Registry, name: str, count: int, docker: bool = False) -> Iterator[str]:
    """Writes distinct one-layer images into the storage of Debian's docker-registry; their references."""
    tar = make_tar({"etc/name": name.encode() * 1000})
    layer = gzip.compress(tar, 1, mtime=0)
    _blob(registry.root, name, layer)
    for number in range(count):
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"], "Labels": {"number": str(number)}},
            "history": [{"created_by": "benchmark"}],
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]},
        }
        kind, config_kind = (DOCKER_MANIFEST, DOCKER_CONFIG) if docker else (OCI_MANIFEST, OCI_CONFIG)
        layer_kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        if docker:
            layer_kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        body = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": _blob(registry.root, name, json.dumps(config).encode()) | {"mediaType": config_kind},
            "layers": [_entry(layer) | {"mediaType": layer_kind}],
        }
        manifest = json.dumps(body).encode()
        digest = str(_blob(registry.root, name, manifest)["digest"])
        manifests = registry.root / "docker/registry/v2/repositories" / name / "_manifests"
        _link(manifests / "revisions/sha256" / digest[7:], digest)
        _link(manifests / f"tags/b{number}/current", digest)
        _link(manifests / f"tags/b{number}/index/sha256" / digest[7:], digest)
        yield f"{registry.address}/{name}:b{number}"


def _entry(data: bytes) -> dict[str, Any]:
    return {"digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}


def _blob(root: Path, name: str, data: bytes) -> dict[str, Any]:
    entry = _entry(data)
    hexdigits = entry["digest"][7:]
    folder = root / "docker/registry/v2/blobs/sha256" / hexdigits[:2] / hexdigits
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").write_bytes(data)
    _link(root / "docker/registry/v2/repositories" / name / "_layers/sha256" / hexdigits, entry["digest"])
    return entry


def _link(folder: Path, digest: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").write_text(digest)


@dataclass
class _Counted:
    """Bytes that this process has written to sockets, headers and all."""

    sent: int = 0
    requests: int = 0

    def watch(self) -> None:
        """Wraps the HTTP library's sockets; once per process."""
        stream: Any = importlib.import_module("httpcore2._backends.sync").SyncStream
        guard, write = threading.Lock(), stream.write

        def counted(this: Any, buffer: bytes, timeout: float | None = None) -> None:
            with guard:
                self.sent += len(buffer)
                self.requests += buffer[:8].split(b" ")[0] in {b"GET", b"HEAD", b"PUT", b"POST", b"PATCH"}
            write(this, buffer, timeout)

        stream.write = counted


def figures(batch_size: int = BATCH) -> list[Figure]:
    """Everything in one registry of its own."""
    counted = _Counted()
    counted.watch()
    with tempfile.TemporaryDirectory(prefix="graftbox-bench-") as folder:
        store = Store(Path(folder) / "cache")
        bundle = make_bundle(store)
        with running_registry(Path(folder) / "registry") as registry:
            return [
                *_one_by_one(registry, store, Choice({"amd64": bundle}), counted),
                *_many(registry, store, Choice({"amd64": bundle}), counted, batch_size),
            ]


def _one_by_one(registry: Registry, store: Store, choice: Choice, counted: _Counted) -> list[Figure]:
    """`graft BASE TARGET`, each image with one tag, over one connection."""
    bases = list(plant(registry, "single", ONE_BY_ONE + 1))
    times, sizes, requests = [], [], []
    with Access().shared(parallel=1) as registries:
        access = Access(registries=registries)
        for number, base in enumerate(bases):
            before = counted.sent, counted.requests
            start = time.perf_counter()
            target = parse(f"{registry.address}/runtime/single:{number}")
            graft_image(parse(base), target, choice.bundles, store, access=access)
            times.append((time.perf_counter() - start) * 1000)
            sizes.append((counted.sent - before[0]) / 1000)
            requests.append(float(counted.requests - before[1]))
    # The first one brings the bundle's layers.
    return [
        Figure("one image, one tag, one connection", "ms", tuple(times[1:]), 25),
        Figure("bytes sent for it, headers included", "kB", tuple(sizes[1:]), 2.5),
        Figure("requests for it", "", tuple(requests[1:])),
    ]


def _many(registry: Registry, store: Store, choice: Choice, counted: _Counted, count: int) -> list[Figure]:
    bases = list(plant(registry, "many", count))
    target = repository(f"{registry.address}/runtime/many")
    figures: list[Figure] = []
    for what, rate_target in (("batch, three tags each", 80.0), ("the same batch again", 300.0)):
        with Access().shared(JOBS) as registries:
            work = batch.worker(target, "tags", choice, store, replace(Access(), registries=registries))
            before = counted.sent
            start, cpu = time.perf_counter(), time.process_time()
            outcomes = [outcome.status for outcome in batch.run(bases, work, JOBS, registries)]
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert "failed" not in outcomes
        figures += [
            Figure(f"{what}, {JOBS} jobs", "images/s", (count / wall,), rate_target),
            Figure("… client CPU per image", "ms", (cpu / count * 1000,), 4),
            Figure("… sent per image", "kB", ((counted.sent - before) / count / 1000,)),
        ]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return [*figures, Figure(f"memory after {count} images", "MB", (memory,), 80)]


if __name__ == "__main__":
    print(table("Grafting in a registry", figures(int(sys.argv[1]) if sys.argv[1:] else BATCH)))

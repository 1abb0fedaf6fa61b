"""Measures grafts in a registry: one connection, a batch with 8 jobs, and the same batch again.

The bases are distinct and cheap: one layer, and configs that differ in one label, written into the local
registry's storage. Requests pass no proxy; bytes are counted where they leave the client. Client and registry
share the machine's cores, so beside the time that a run takes there is the processor time of each: what idle
cores allow. A registry on a disk waits for the disk with each write, so one in memory is measured too.

python -m benchmarks.registry [--long] [COUNT]
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.conftest import make_bundle
from tests.integration.conftest import Registry, running_registry

from benchmarks.measure import Figure, table
from benchmarks.planted import OCI_LAYER, entry_of, link, plant
from graftbox.bundle import build
from graftbox.cli.graft import as_image_bundle
from graftbox.image import batch
from graftbox.image.graft import Bundle, BundleLayer, Image, Options, graft
from graftbox.image.manifest import OCI_CONFIG, OCI_MANIFEST, Document
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.stream import SocketStream
from graftbox.image.tags import Choice, repository, tags_of
from graftbox.image.transports import Access
from graftbox.store import Store

ONE_BY_ONE = 100
BATCH = 1000
LONG = 10_000
JOBS = 8
MEMORY = Path("/dev/shm")
FIRST = "in memory"
"""The registry of which the README says more."""
GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
USED = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump((used.ru_utime + used.ru_stime, used.ru_maxrss), open(sys.argv[1] + "/used", "w"))
sys.exit(code)
"""
"""Runs a command and writes its processor time (s) and peak memory (KiB). A process that is started has the
peak of the one that starts it (getrusage(2)), so that has to be a small one.
"""


@dataclass
class _Counted:
    """Bytes that this process has written to sockets, headers and all."""

    sent: int = 0
    bodies: int = 0
    requests: int = 0

    def watch(self) -> None:
        """Wraps the client's sockets; once per process."""
        stream: Any = SocketStream
        guard, write = threading.Lock(), stream.write

        def counted(this: Any, buffer: bytes) -> None:
            starts = buffer[:8].split(b" ")[0] in {b"GET", b"HEAD", b"PUT", b"POST", b"PATCH"}
            body = buffer.partition(b"\r\n\r\n")[2] if starts else buffer
            with guard:
                self.sent += len(buffer)
                self.requests += starts
                self.bodies += len(body)
            write(this, buffer)

        stream.write = counted


def figures(long: bool = False, batch_size: int = BATCH) -> list[Figure]:
    """Everything in registries of their own: one whose storage is in memory, and one on the disk.

    ``long`` adds one run of the command over `LONG` new images.
    """
    # What other sections have used does not count (proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    counted = _Counted()
    counted.watch()
    figures: list[Figure] = []
    for where, root in ((FIRST, MEMORY), ("on disk", None)):
        if root is not None and not root.is_dir():
            continue
        with tempfile.TemporaryDirectory(prefix="graftbox-bench-", dir=root) as folder:
            store = Store(Path(folder) / "cache")
            choice = Choice({"amd64": make_bundle(store)})
            with running_registry(Path(folder) / "registry") as registry:
                figures += _one_by_one(registry, store, choice, counted, where)
                figures += _many(registry, store, choice, counted, batch_size, where)
                if root is None:
                    figures += _finished(registry, store, choice, counted, 10 * batch_size)
    return [*figures[:4], *_bodies(), *figures[4:], *(_long(LONG) if long else [])]


def _long(count: int) -> list[Figure]:
    """The command that a user types for so many new images: how fast it is, and how much memory it takes."""
    folder = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="graftbox-bench-", dir=folder) as name:
        with running_registry(Path(name) / "registry") as registry:
            listed = Path(name) / "bases"
            listed.write_text("".join(f"{base}\n" for base in plant(registry, "long", count)))
            words = ["graft", "--from", str(listed), "--to-repo", f"{registry.address}/runtime/long"]
            start = time.perf_counter()
            with (Path(name) / "outcomes").open("w") as outcomes:
                command = [sys.executable, "-ISc", USED, name, GRAFTBOX, *words, "--jobs", str(JOBS)]
                code = subprocess.run(command, stdout=outcomes).returncode
            seconds = time.perf_counter() - start
            processor, peak = json.loads((Path(name) / "used").read_bytes())
        made = (Path(name) / "outcomes").read_text().count('"status": "made"')
    assert made == count, f"{made} of {count} images, exit code {code}"
    what = f"`graftbox graft --from`, {count} new images in one run, {JOBS} jobs (at least)"
    return [
        Figure(what, "images/s", (count / seconds,), 80, at_least=True),
        Figure("… memory of the command, at most", "MB", (peak * 1.024 / 1000,), 80),
        Figure("… client CPU per image", "ms", (processor / count * 1000,), 4, detail=True),
    ]


def _bodies() -> list[Figure]:
    """What today's bundle makes of config and manifest: with a layer for each component, and merged."""
    if build.current("amd64") is None:
        return []
    merged, apart = (as_image_bundle(build.build(arch="amd64", merged=merged)) for merged in (True, False))
    return [
        Figure(f"… the same for all components, {len(bundle.layers)} {how}", "kB", (_body(bundle),), 2.5)
        for bundle, how in ((apart, "layers"), (merged, "merged layers (`--merge`)"))
    ]


def _body(bundle: Bundle) -> float:
    """Kilobytes of config and manifest of an ordinary base of one layer with this bundle."""
    layer = BundleLayer("base", "", "sha256:" + "b" * 64, "sha256:" + "c" * 64, 0, 30_000_000)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]},
    }
    data = json.dumps(
        config | {"history": [{}], "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}
    ).encode()
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry_of(data) | {"mediaType": OCI_CONFIG},
        "layers": [{"mediaType": OCI_LAYER, "digest": layer.digest, "size": layer.compressed_size}],
    }
    base = Image(Document(json.dumps(body).encode(), OCI_MANIFEST), data)
    image = graft(base, bundle, Options("docker.io/library/debian:13", "sha256:" + "d" * 64))
    return (len(image.config) + len(image.manifest.data)) / 1000


def _one_by_one(
    registry: Registry, store: Store, choice: Choice, counted: _Counted, where: str
) -> list[Figure]:
    """`graft BASE TARGET`, each image with one tag, over one connection."""
    bases = list(plant(registry, "single", ONE_BY_ONE + 1))
    times, sizes, bodies, requests = [], [], [], []
    with Access().shared(parallel=1) as registries:
        access = Access(registries=registries)
        for number, base in enumerate(bases):
            before = counted.sent, counted.bodies, counted.requests
            start = time.perf_counter()
            target = parse(f"{registry.address}/runtime/single:{number}")
            graft_image(parse(base), target, choice.bundles, store, access=access)
            times.append((time.perf_counter() - start) * 1000)
            sizes.append((counted.sent - before[0]) / 1000)
            bodies.append((counted.bodies - before[1]) / 1000)
            requests.append(float(counted.requests - before[2]))
    # The first one brings the bundle's layers.
    again = where != FIRST
    layers = len(choice.bundles["amd64"].layers)
    return [
        Figure(f"one image, one tag, one connection, registry {where}", "ms", tuple(times[1:]), 25),
        Figure("… requests", "", tuple(requests[1:]), detail=again),
        Figure("… sent, with all headers", "kB", tuple(sizes[1:]), detail=True),
        Figure(
            f"… sent, as config and manifest, with a bundle of {layers} layers (`core`)",
            "kB",
            tuple(bodies[1:]),
            2.5,
            detail=again,
        ),
    ]


def _many(
    registry: Registry, store: Store, choice: Choice, counted: _Counted, count: int, where: str
) -> list[Figure]:
    """The batch, the same batch again, and the same requests bare."""
    bases = list(plant(registry, "many", count))
    target = repository(f"{registry.address}/runtime/many")
    figures: list[Figure] = []
    for what, wanted in (
        (f"batch of new images, three tags each, registry {where}", 80.0),
        ("the same batch again", 300.0),
    ):
        with Access().shared(JOBS) as registries:
            work = batch.worker(target, "tags", choice, store, replace(Access(), registries=registries))
            run = _Run(registry, counted)
            statuses = [outcome.status for outcome in batch.run(bases, work, JOBS, registries)]
            run.stop(count)
        assert "failed" not in statuses
        figures += run.figures(what, wanted, again=where != FIRST)
    figures.append(Figure(f"memory after {2 * count} images", "MB", (_peak_memory(),), 80, detail=True))
    run = _Run(registry, counted)
    _bare(registry.address, count)
    run.stop(count)
    what = f"the requests of new images, bare (http.client), registry {where}"
    return figures + run.figures(what, None, again=where != FIRST)


def _finished(
    registry: Registry, store: Store, choice: Choice, counted: _Counted, count: int
) -> list[Figure]:
    """A long list of which everything is there: its tags are written into the registry's storage."""
    target = repository(f"{registry.address}/runtime/finished")
    tags = registry.root / "docker/registry/v2/repositories/runtime/finished/_manifests/tags"
    revisions = tags.parent / "revisions/sha256"
    bases = []
    for base in plant(registry, "finished", count):
        digest = (_tag_folder(registry, base) / "current/link").read_text()
        link(tags / tags_of(parse(base), digest, choice).source / "current", digest)
        link(revisions / digest[7:], digest)
        bases.append(base)
    with Access().shared(JOBS) as registries:
        work = batch.worker(target, "tags", choice, store, replace(Access(), registries=registries))
        run = _Run(registry, counted)
        present = sum(outcome.status == "present" for outcome in batch.run(bases, work, JOBS, registries))
        run.stop(count)
    assert present == count
    memory = Figure(f"memory after {count} more", "MB", (_peak_memory(),), 80)
    return [*run.figures(f"{count} images that are there", 300, again=True), memory]


def _tag_folder(registry: Registry, base: str) -> Path:
    name, _, tag = base.partition("/")[2].partition(":")
    return registry.root / "docker/registry/v2/repositories" / name / "_manifests/tags" / tag


class _Run:
    """What one run costs: time, this process's and the registry's processor time, bytes."""

    def __init__(self, registry: Registry, counted: _Counted) -> None:
        self._registry, self._counted = registry, counted
        self._start = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        return time.perf_counter(), time.process_time(), _children_cpu(), float(self._counted.sent)

    def stop(self, count: int) -> None:
        self._each = [(now - then) / count for now, then in zip(self._now(), self._start, strict=True)]

    def figures(self, what: str, wanted: float | None, again: bool) -> list[Figure]:
        """With ``again``, the README has their like already."""
        wall, client, server, sent = self._each
        figures = [
            Figure(f"{what}, {JOBS} jobs (at least)", "images/s", (1 / wall,), wanted, at_least=True),
            Figure(
                "… by processor time, on two idle cores",
                "images/s",
                (2 / (client + server),),
                wanted,
                at_least=True,
                detail=True,
            ),
            Figure(
                "… client CPU per image",
                "ms",
                (client * 1000,),
                4 if wanted else None,
                detail=again or not wanted,
            ),
            Figure("… registry CPU per image", "ms", (server * 1000,), detail=True),
        ]
        return [*figures, Figure("… sent per image", "kB", (sent / 1000,), detail=True)] if sent else figures


def _children_cpu() -> float:
    """Seconds of processor time of the processes that this one has started and that still run."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # threads end
            for child in (task / "children").read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _peak_memory() -> float:
    """Of this process, in MB, since `figures` began."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1.024 / 1000


def _bare(address: str, count: int) -> None:
    """The eight requests that a new image takes, sent by the standard library with nothing in between."""
    local = threading.local()

    def ask(method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[str, bytes]:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(address)
        headers = {"Accept": OCI_MANIFEST} | ({"Content-Type": kind} if kind else {})
        local.connection.request(method, path, body=body, headers=headers)
        with local.connection.getresponse() as response:
            return response.headers.get("Location") or "", response.read()

    repo = "/v2/runtime/many"
    tag = json.loads(ask("GET", f"{repo}/tags/list?n=1")[1])["tags"][0]
    template = json.loads(ask("GET", f"{repo}/manifests/{tag}")[1])

    def image(number: int) -> None:
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "bare": number, "x": "x" * 1200}
        ).encode()
        base = json.loads(ask("GET", f"/v2/many/manifests/b{number}")[1])
        ask("HEAD", f"{repo}/manifests/bare{number}")
        ask("GET", f"/v2/many/blobs/{base['config']['digest']}")
        place = ask("POST", f"{repo}/blobs/uploads/", b"")[0]
        entry = entry_of(config)
        ask("PUT", f"{place}&digest={entry['digest']}", config)
        manifest = json.dumps({**template, "config": entry | {"mediaType": OCI_CONFIG}}).encode()
        for end in ("", "x", "y"):
            ask("PUT", f"{repo}/manifests/bare{number}{end}", manifest, OCI_MANIFEST)

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(image, range(count)))


if __name__ == "__main__":
    size = int(next((word for word in sys.argv[1:] if word.isdecimal()), BATCH))
    print(table("Grafting in a registry", figures("--long" in sys.argv, size)))

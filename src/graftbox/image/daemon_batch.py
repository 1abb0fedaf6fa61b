"""Many runtime images into one Docker daemon: each stream carries many images, and each layer once.

Docker unpacks the bundle once per base whatever is done (its layers are kept by their whole chain), but it
need not be sent, nor be decompressed, once per base.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from graftbox.errors import GraftboxError, UnsupportedError
from graftbox.image.archive_target import blob_name, tar_entry
from graftbox.image.docker_daemon import Daemon
from graftbox.image.graft import Bundle, Options
from graftbox.image.layer import decompressed
from graftbox.image.place import Planned, check_form, make_plan
from graftbox.image.platforms import architecture, machine_architecture
from graftbox.image.reference import ImageName, Reference, Transport, parse
from graftbox.image.reuse import FAILED, MADE, PRESENT, Outcome
from graftbox.image.tags import Choice, tags_of
from graftbox.image.transports import Access, open_source
from graftbox.store import Store

GROUP = 32
"""Images of one stream."""


@dataclass(frozen=True)
class Item:
    """One image on its way; ``present`` if the daemon has it already."""

    base: str
    planned: Planned
    names: tuple[str, ...]
    tags: tuple[str, ...]
    present: bool
    seconds: float


def load(
    bases: Iterable[str], repository: ImageName, choice: Choice, store: Store, access: Access
) -> Iterator[Outcome]:
    """Grafts each base into the daemon, under the three tags of its content.

    A base without a transport is looked for in the daemon. Failures of one base are outcomes; only the
    daemon's own end the run.
    """
    check_form(choice.bundles, Reference(Transport.DOCKER_DAEMON, name=repository))
    daemon = Daemon(access.docker_host)
    try:
        if daemon.uses_containerd_store():
            raise UnsupportedError(
                "This Docker keeps images in containerd, which takes one image at a time: graft each base by "
                "itself, or into a registry."
            )
        lines = iter(bases)
        while group := list(itertools.islice(lines, GROUP)):
            items = []
            for base in group:
                prepared = _prepared(base, repository, choice, store, access, daemon)
                if isinstance(prepared, Outcome):
                    yield prepared
                else:
                    items.append(prepared)
            yield from _loaded(items, choice, daemon)
    finally:
        daemon.close()


def _prepared(
    base: str, repository: ImageName, choice: Choice, store: Store, access: Access, daemon: Daemon
) -> Item | Outcome:
    start = time.perf_counter()
    try:
        reference = parse(base)
        if reference.transport is Transport.REGISTRY and "://" not in base:
            reference = Reference(Transport.DOCKER_DAEMON, name=reference.name)
        source = open_source(reference, store, access, whole=False)
        try:
            options = Options(reference.portable, user=choice.user, keep_entrypoint=choice.keep_entrypoint)
            arch = architecture(choice.platform) if choice.platform else machine_architecture()
            plan = make_plan(source, choice.bundles, store, options, arch)
            (planned,) = plan.images
            # What `make_plan` has read is enough where there are no indexes.
            top = planned.base if source.synthetic and planned.base else source.resolve()
        finally:
            source.close()
    except GraftboxError as error:
        return Outcome(base, FAILED, seconds=round(time.perf_counter() - start, 6), error=str(error))
    tags = tags_of(reference, top.config.digest if source.synthetic else top.digest, choice).in_order
    names = tuple(dataclasses.replace(repository, tag=tag).familiar for tag in tags)
    found = daemon.get(f"/images/{names[-1]}/json") or {}
    present = found.get("Id") == planned.image.manifest.config.digest
    return Item(base, planned, names, tags, present, time.perf_counter() - start)


def _loaded(items: Sequence[Item], choice: Choice, daemon: Daemon) -> Iterator[Outcome]:
    """One stream without layers; if Docker lacks any, one with each layer once; if it fails, one for each."""
    wanted, sent, error = [item for item in items if not item.present], 0, ""
    start = time.perf_counter()
    if wanted and daemon.load(archive(wanted, {})) is not None:
        grafted = [item.planned.bundle for item in wanted if item.planned.bundle]
        plain = {layer.digest: bundle for bundle in grafted for layer in bundle.layers}
        try:
            error = daemon.load(archive(wanted, plain)) or ""
        except GraftboxError as failure:
            error = str(failure)
        sent = sum(layer.size for bundle in set(plain.values()) for layer in bundle.layers)
    if error:
        error = f"Docker refused the image: {error}. Is its base in Docker? docker pull NAME"
    if error and len(wanted) > 1:
        # One image that Docker refuses must not take the others with it.
        for item in items:
            yield from _loaded([item], choice, daemon)
        return
    each = (time.perf_counter() - start) / max(len(wanted), 1)
    for item in items:
        digest = item.planned.image.manifest.config.digest
        status = PRESENT if item.present else FAILED if error else MADE
        share = sent if not item.present and item is wanted[0] else 0
        seconds = round(item.seconds + (0 if item.present else each), 6)
        yield Outcome(
            item.base,
            status,
            item.names[-1],
            digest,
            item.tags,
            bytes_sent=share,
            seconds=seconds,
            error=error,
        )


def archive(items: Sequence[Item], bundles: dict[str, Bundle]) -> Iterator[bytes]:
    """``docker load``'s stream of several images.

    ``bundles`` maps the layers to be sent, by digest, to their bundle; they are sent unpacked, so that Docker
    does not unpack them again for each image. Layers of bases are never sent.
    """
    listing = []
    for item in items:
        manifest = item.planned.image.manifest
        layers = [blob_name(blob.diff_id or "") for blob in item.planned.blobs[1:]]
        listing.append(
            {"Config": blob_name(manifest.config.digest), "RepoTags": list(item.names), "Layers": layers}
        )
    data = json.dumps(listing).encode()
    yield from tar_entry("manifest.json", len(data), [data])
    for item in items:
        config = item.planned.image.config
        yield from tar_entry(blob_name(item.planned.image.manifest.config.digest), len(config), [config])
    blobs = {blob.digest: blob for item in items for blob in item.planned.blobs if blob.digest in bundles}
    sizes = {layer.digest: layer.size for bundle in bundles.values() for layer in bundle.layers}
    for digest, blob in blobs.items():
        yield from tar_entry(blob_name(blob.diff_id or ""), sizes[digest], decompressed(blob.open()))
    yield b"\0" * 1024

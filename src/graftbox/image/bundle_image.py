"""The bundle as an image of its own: only ``/openhands``, for ``COPY --from`` and for volumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from graftbox.errors import UnsupportedError
from graftbox.image.graft import BUNDLE, Options
from graftbox.image.manifest import OCI_INDEX, Document, serialise
from graftbox.image.place import Bundles, Plan, Planned, Report, carry_out, check_form, make_plan
from graftbox.image.platforms import machine_architecture
from graftbox.image.reference import Reference
from graftbox.image.transports import Access
from graftbox.store import Store


def bundle_plan(bundles: Bundles, store: Store) -> Plan:
    """One image per architecture, the same as a graft of ``scratch``; an index if there are several."""
    images = tuple(
        make_plan(None, {arch: bundle}, store, Options("scratch"), arch).images[0]
        for arch, bundle in sorted(bundles.items())
    )
    return Plan(images, _index(images, bundles) if len(images) > 1 else None, ())


def _index(images: Sequence[Planned], bundles: Bundles) -> Document:
    entries = []
    for planned in images:
        manifest = planned.image.manifest.descriptor
        entry = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size}
        platform = {"os": planned.platform.os, "architecture": planned.platform.arch}
        entries.append({**entry, "platform": platform})
    digests = ",".join(bundles[planned.platform.arch].digest for planned in images)
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return Document(serialise({**body, "annotations": {BUNDLE: digests}}), OCI_INDEX)


def push_bundle(
    bundles: Bundles,
    target: Reference,
    store: Store,
    *,
    tags: Sequence[str] = (),
    access: Access | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Stores the bundle's image as ``target``, which appears only when all of it is there.

    An engine or a Docker archive takes one architecture: the only one, else this machine's.
    """
    start = time.perf_counter()
    check_form(bundles, target)
    if not target.transport.holds_many_platforms and len(bundles) > 1:
        arch = machine_architecture()
        if arch not in bundles:
            raise UnsupportedError(
                f"{target} takes one architecture; choose it: --arch {next(iter(bundles))}"
            )
        bundles = {arch: bundles[arch]}
    plan = bundle_plan(bundles, store)
    return carry_out(plan, target, store, tags, access, progress, start)

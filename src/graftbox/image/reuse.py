"""Finds the runtime image of a base in a repository, under its tags, or makes it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from graftbox.image.blob import Source
from graftbox.image.graft import Options
from graftbox.image.manifest import Document
from graftbox.image.place import execute, make_plan
from graftbox.image.platforms import architecture
from graftbox.image.reference import ImageName, Reference, Transport
from graftbox.image.registry import RegistrySource
from graftbox.image.registry_target import RegistryTarget
from graftbox.image.tags import Choice, Tags, tags_of
from graftbox.image.transports import Access, open_source
from graftbox.store import Store

MADE, PRESENT, FAILED = "made", "present", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one base; ``image`` is the name with the source tag."""

    base: str
    status: str
    image: str = ""
    digest: str = ""
    tags: tuple[str, ...] = ()
    layers_sent: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""


SURE = 8
"""After so many new images in a row the next one is expected to be new too."""


class Memory:
    """What a run has met: each image's name, so that a second name of a base gets its tag too.

    Where the last bases were new, the next one's manifest is asked for at once instead of its digest first.
    """

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._new_in_a_row = 0

    def is_other(self, image: str, versioned: str) -> bool:
        """Whether the image was met before under another name; hashes keep the memory of it small."""
        return self._met.setdefault(hash(image), hash(versioned)) != hash(versioned)

    def add(self, is_new: bool) -> None:
        self._new_in_a_row = self._new_in_a_row + 1 if is_new else 0

    @property
    def expects_new(self) -> bool:
        return self._new_in_a_row >= SURE


def obtain(
    base: Reference,
    repository: ImageName,
    choice: Choice,
    store: Store,
    access: Access,
    memory: Memory | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """The runtime image of ``base`` in ``repository``.

    An image that is there costs one HEAD beside the one that tells the base's digest, and is never made
    again. Without ``memory``, its versioned tag is looked for as well.
    """
    start = time.perf_counter()
    top = _manifest(base, access) if memory is not None and memory.expects_new else None
    digest = top.digest if top else base_digest(base, store, access)
    tags = tags_of(base, digest, choice)
    name = dataclasses.replace(repository, tag=tags.source)
    target = RegistryTarget(
        name, tags.in_order, store, access.insecure, access.registries, access.authority, fresh=True
    )
    try:
        layers = size = 0
        notes: tuple[str, ...] = ()
        found = target.head(tags.source)
        status = MADE if found is None else PRESENT
        is_other = memory is None or memory.is_other(str(name), tags.versioned)
        if memory is not None:
            memory.add(found is None)
        if found is None:
            layers, size, found, notes = _make(base, digest, top, target, choice, store, access, progress)
        elif is_other:
            _also_named(target, tags, found, access)
    finally:
        target.close()
    seconds = round(time.perf_counter() - start, 6)
    return Outcome(
        str(base.name or base), status, str(name), found, tags.in_order, layers, size, seconds, notes
    )


def _manifest(base: Reference, access: Access) -> Document | None:
    """What a registry has under a tag; None of a base that has none."""
    if base.transport is not Transport.REGISTRY or base.image_name.digest:
        return None
    source = RegistrySource(base.image_name, access.insecure, access.registries, access.authority)
    try:
        return source.resolve()
    finally:
        source.close()


def base_digest(base: Reference, store: Store, access: Access) -> str:
    """The digest of the base's content, read as cheaply as its place allows."""
    if base.transport is Transport.SCRATCH:
        return "scratch"
    source = open_source(base, store, access, whole=False)
    try:
        if isinstance(source, RegistrySource):
            return source.head()
        top = source.resolve()
        return top.config.digest if source.synthetic else top.digest
    finally:
        source.close()


def _make(
    base: Reference,
    digest: str,
    top: Document | None,
    target: RegistryTarget,
    choice: Choice,
    store: Store,
    access: Access,
    progress: Callable[[str], None],
) -> tuple[int, int, str, tuple[str, ...]]:
    source: Source | None = None
    if base.transport is not Transport.SCRATCH:
        # What was resolved is what is grafted, even if the base's tag moves meanwhile.
        pinned = base
        if base.transport is Transport.REGISTRY:
            pinned = dataclasses.replace(base, name=dataclasses.replace(base.image_name, digest=digest))
        source = open_source(pinned, store, access)
    try:
        options = Options(base.portable, user=choice.user, keep_entrypoint=choice.keep_entrypoint)
        arch = architecture(choice.platform) if choice.platform else None
        plan = make_plan(source, choice.bundles, store, options, arch, top)
        layers, size = execute(plan, target, progress)
        target.finish()
        return layers, size, plan.top.digest, plan.notes
    finally:
        if source is not None:
            source.close()


def _also_named(target: RegistryTarget, tags: Tags, digest: str, access: Access) -> None:
    """Gives an image that is there the versioned tag of this name of its base, if another one has it."""
    if target.head(tags.versioned) == digest:
        return
    name = dataclasses.replace(target.name, digest=digest or None)
    source = RegistrySource(name, access.insecure, access.registries, access.authority)
    try:
        manifest: Document = source.resolve()
    finally:
        source.close()
    target.tag(manifest, tags.versioned)

"""Makes a runtime image: resolve base -> read manifest -> plan -> place layers -> put manifest -> report."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftbox.errors import FormatError, UnsupportedError, VerificationError
from graftbox.image.blob import Blob, Source, Target, read
from graftbox.image.graft import (
    Bundle,
    Image,
    Options,
    graft,
    graft_index,
    scratch,
)
from graftbox.image.manifest import Descriptor, Document, parse_object
from graftbox.image.reference import Reference, Transport
from graftbox.image.transports import Access, open_source, open_target, same_daemon, target_tags
from graftbox.store import Store


@dataclass(frozen=True)
class Platform:
    """A platform as indexes name it."""

    os: str
    arch: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.arch, self.variant) if part)

    @classmethod
    def read(cls, raw: Mapping[str, Any] | None) -> Platform:
        raw = raw if isinstance(raw, dict) else {}
        return cls(*(str(raw.get(key) or "") for key in ("os", "architecture", "variant")))


@dataclass(frozen=True)
class Planned:
    """One platform's image, to be stored with all its blobs: the config first, then layers, lowest first."""

    platform: Platform
    base: Document | None
    image: Image
    blobs: tuple[Blob, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that will be stored, computed before anything is written."""

    images: tuple[Planned, ...]
    index: Document | None
    notes: tuple[str, ...]

    @property
    def top(self) -> Document:
        """What the target's name will stand for."""
        return self.index or self.images[0].image.manifest


@dataclass(frozen=True)
class Report:
    """What was done; ``layers_sent`` and ``bytes_sent`` count what was read and written anew."""

    image: str
    digest: str
    tags: tuple[str, ...]
    layers_sent: int
    bytes_sent: int
    seconds: float
    platforms: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


def machine_architecture() -> str:
    """This machine's architecture as images name it."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


Bundles = Mapping[str, Bundle]
"""By architecture; the platforms of an index that have none here are left out."""


def graft_image(
    base: Reference,
    target: Reference,
    bundles: Bundles,
    store: Store,
    *,
    user: str | None = None,
    keep_entrypoint: bool = False,
    platform: str | None = None,
    tags: Sequence[str] = (),
    access: Access | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Grafts ``base`` into ``target``. Bundle layers are read from ``store``'s blobs.

    ``platform`` (``linux/arm64``) chooses one from an index. Nothing appears under the target's name
    unless all of it is stored.
    """
    start = time.perf_counter()
    architecture = _wanted(platform, target, bundles)
    source = None
    if base.transport is not Transport.SCRATCH:
        source = open_source(base, store, access, whole=not same_daemon(base, target))
    try:
        options = Options(base.portable, user=user, keep_entrypoint=keep_entrypoint)
        plan = make_plan(source, bundles, store, options, architecture)
        for note in plan.notes:
            progress(note)
        destination = open_target(target, store, tags, access)
        try:
            layers, size = execute(plan, destination, progress)
            destination.finish()
        finally:
            destination.close()
    finally:
        if source is not None:
            source.close()
    return Report(
        image=str(target),
        # A Docker daemon knows no manifests: there the config's digest is the image's ID.
        digest=(plan.top.config if target.transport is Transport.DOCKER_DAEMON else plan.top).digest,
        tags=target_tags(target, tags),
        layers_sent=layers,
        bytes_sent=size,
        seconds=round(time.perf_counter() - start, 6),
        platforms=tuple(str(planned.platform) for planned in plan.images),
        notes=plan.notes,
    )


def _wanted(platform: str | None, target: Reference, bundles: Bundles) -> str | None:
    """The one architecture to graft, or None for all that the base and the bundles share."""
    if platform:
        parts = platform.split("/")
        system, arch = (parts[0], parts[1]) if len(parts) > 1 else ("linux", parts[0])
        if system != "linux":
            raise UnsupportedError(f"graftbox works on Linux images only, not on {platform}.")
        return arch
    if target.transport.holds_many_platforms:
        return None
    return machine_architecture()


def make_plan(
    source: Source | None, bundles: Bundles, store: Store, options: Options, architecture: str | None = None
) -> Plan:
    """Reads manifests and configs, no layers; ``source`` None is scratch."""
    if architecture is not None:
        bundles = {arch: bundle for arch, bundle in bundles.items() if arch == architecture}
    if not bundles:
        wanted = f"linux/{architecture}" if architecture else "any platform"
        raise UnsupportedError(
            f"There is no bundle for {wanted}; make one: graftbox bundle build --arch ARCH"
        )
    if source is None:
        bundle = next(iter(bundles.values()))
        return Plan((_planned(None, scratch(bundle.arch), bundle, store, options),), None, ())
    top = source.resolve()
    digest = top.config.digest if source.synthetic else top.digest
    options = dataclasses.replace(options, base_digest=digest)
    if not top.is_index:
        base = base_image(source, top)
        config = parse_object(base.config, f"The config of {options.base_name}")
        bundle = bundles.get(str(config.get("architecture"))) or next(iter(bundles.values()))
        return Plan((_planned(source, base, bundle, store, options),), None, ())
    return _plan_index(source, top, bundles, store, options, architecture)


def _plan_index(
    source: Source,
    index: Document,
    bundles: Bundles,
    store: Store,
    options: Options,
    architecture: str | None,
) -> Plan:
    found, dropped = platforms(index), []
    planned: dict[str, Planned] = {}
    for platform, descriptor in found:
        bundle = bundles.get(platform.arch)
        if platform.os != "linux" or bundle is None or (platform.arch == "arm" and platform.variant):
            dropped.append(str(platform))
            continue
        child = source.manifest(descriptor)
        if child.is_index:
            raise UnsupportedError(f"{options.base_name} is an index of indexes; name one of them by digest.")
        child_options = dataclasses.replace(options, base_digest=child.digest)
        base = base_image(source, child)
        planned[descriptor.digest] = _planned(source, base, bundle, store, child_options)
    if not planned:
        have = ", ".join(str(platform) for platform, _ in found) or "no platform"
        ours = ", ".join(f"linux/{arch}" for arch in bundles)
        raise UnsupportedError(
            f"{options.base_name} has {have}, but the bundle is for {ours}. "
            "Build another: graftbox bundle build --arch ARCH"
        )
    notes = (f"left out, because there is no bundle for it: {', '.join(dropped)}",) if dropped else ()
    images = tuple(planned.values())
    if architecture is not None:
        return Plan(images[:1], None, notes)
    children = {digest: item.image.manifest for digest, item in planned.items()}
    digests = ",".join(dict.fromkeys(bundles[item.platform.arch].digest for item in images))
    return Plan(images, graft_index(index, children, digests, options), notes)


def platforms(index: Document) -> list[tuple[Platform, Descriptor]]:
    """The images of an index; attestations and other artifacts are no images."""
    found = []
    for entry in index.entries("manifests"):
        if not isinstance(entry, dict):
            raise FormatError("The base's index holds something that is no descriptor.")
        platform = Platform.read(entry.get("platform"))
        if platform.os == "unknown" or entry.get("artifactType"):
            continue
        found.append((platform, Descriptor.read(entry, "The base's index")))
    return found


def base_image(source: Source, manifest: Document) -> Image:
    """The manifest with its config, read and verified."""
    return Image(manifest, read(source.blob(manifest.config)))


def _planned(source: Source | None, base: Image, bundle: Bundle, store: Store, options: Options) -> Planned:
    image = graft(base, bundle, options)
    config = parse_object(image.config, "The runtime image's config")
    ours = {layer.digest: layer for layer in bundle.layers}
    blobs = [Blob.of(image.config, image.manifest.config.media_type)]
    for descriptor, diff_id in zip(image.manifest.layers, config["rootfs"]["diff_ids"], strict=True):
        if descriptor.digest in ours:
            blobs.append(Blob.of_file(store.blob_path(descriptor.digest), descriptor, diff_id))
        elif not descriptor.is_foreign:
            assert source is not None, "scratch has no layers"
            blobs.append(source.blob(descriptor, diff_id))
    return Planned(
        Platform("linux", str(config["architecture"]), str(config.get("variant") or "")),
        base.manifest,
        image,
        tuple(blobs),
    )


def execute(plan: Plan, target: Target, progress: Callable[[str], None]) -> tuple[int, int]:
    """Places every image of the plan; returns how many layers and bytes had to be sent."""
    layers = size = 0
    for planned in plan.images:
        top = plan.index is None
        offered = (planned.image.manifest, planned.image.config, planned.blobs, top)
        missing = target.offer(*offered)
        for blob in missing:
            if blob.diff_id and blob.path and not blob.path.is_file():
                raise VerificationError(
                    f"The bundle's layer {blob.digest} is gone from the cache: build it again."
                )
            sent = target.put(blob)
            size += sent
            if sent and blob.diff_id:
                layers += 1
                progress(f"sent {blob.digest[:19]} ({sent / 1e6:.1f} MB)")
        if missing and (still := target.offer(*offered)):
            raise VerificationError(
                f"The target took {still[0].digest} and says that it lacks it. Run the command again; "
                "if it fails again, its storage is at fault."
            )
    if plan.index is not None:
        target.offer(plan.index, b"", (), True)
    return layers, size

"""Makes a runtime image: resolve base -> read manifest -> plan -> place layers -> put manifest -> report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graftbox.errors import UnsupportedError, VerificationError
from graftbox.image.blob import Blob, Source, Target
from graftbox.image.graft import (
    Bundle,
    Image,
    Options,
    graft,
    graft_index,
    scratch,
)
from graftbox.image.manifest import Document, parse_object
from graftbox.image.platforms import (
    Platform,
    architecture,
    child_manifest,
    image_of,
    machine_architecture,
    platforms,
)
from graftbox.image.reference import Reference, Transport
from graftbox.image.transports import Access, open_source, open_target, same_engine, target_tags
from graftbox.store import Store


@dataclass(frozen=True)
class Planned:
    """One platform's image, to be stored with all its blobs: the config first, then layers, lowest first."""

    platform: Platform
    base: Document | None
    image: Image
    blobs: tuple[Blob, ...]
    bundle: Bundle | None = None
    """What it was grafted with."""

    @property
    def depth(self) -> int:
        return len(self.image.manifest.entries("layers"))


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
    """What was done; ``layers_sent``, and ``bytes_sent`` of layers and configs, count what was new."""

    image: str
    digest: str
    tags: tuple[str, ...]
    layers_sent: int
    bytes_sent: int
    seconds: float
    platforms: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


Bundles = Mapping[str, Bundle]
"""By architecture; the platforms of an index that have none here are left out."""

DEEPEST = 125
"""Layers that an image may have in Docker's own store (moby, layer/layer_store.go: maxLayerDepth)."""

JOBS = 8
"""Requests under way at one registry for one image."""


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
    check_form(bundles, target)
    arch = _wanted(platform, target)
    with contextlib.ExitStack() as stack:
        if base.transport is target.transport is Transport.REGISTRY and not (access and access.registries):
            # One connection and one log-in for both.
            access = access or Access()
            access = dataclasses.replace(access, registries=stack.enter_context(access.shared(JOBS)))
        source = None
        if base.transport is not Transport.SCRATCH:
            source = open_source(base, store, access, whole=not same_engine(base, target))
            stack.callback(source.close)
        options = Options(
            base.portable,
            user=user,
            keep_entrypoint=keep_entrypoint,
            oci_types=target.transport.is_oci_only,
        )
        plan = make_plan(source, bundles, store, options, arch)
        for note in plan.notes:
            progress(note)
        return carry_out(plan, target, store, tags, access, progress, start)


def carry_out(
    plan: Plan,
    target: Reference,
    store: Store,
    tags: Sequence[str],
    access: Access | None,
    progress: Callable[[str], None],
    start: float,
) -> Report:
    """Put what is planned at ``target``; ``start`` is when the work began, by `time.perf_counter`."""
    with contextlib.closing(open_target(target, store, tags, access)) as destination:
        layers, size = execute(plan, destination, progress)
        destination.finish()
    return Report(
        image=str(target),
        # Engines know no manifests: there the config's digest is the image's ID.
        digest=(plan.top.config if target.transport.names_configs else plan.top).digest,
        tags=target_tags(target, tags),
        layers_sent=layers,
        bytes_sent=size,
        seconds=round(time.perf_counter() - start, 6),
        platforms=tuple(str(planned.platform) for planned in plan.images),
        notes=plan.notes,
    )


def check_form(bundles: Bundles, target: Reference) -> None:
    """Refuses zstd layers for `docker load`, which reads them from Docker 23 on only, and not in words."""
    zstd = any(layer.compression == "zstd" for bundle in bundles.values() for layer in bundle.layers)
    if zstd and target.transport in {Transport.DOCKER_DAEMON, Transport.DOCKER_ARCHIVE}:
        raise UnsupportedError(
            f"{target} cannot take zstd layers; choose --compression gzip, or a registry or OCI target."
        )


def _wanted(platform: str | None, target: Reference) -> str | None:
    """The one architecture to graft, or None for all that the base and the bundles share."""
    if platform:
        return architecture(platform)
    if target.transport.holds_many_platforms:
        return None
    return machine_architecture()


def make_plan(
    source: Source | None,
    bundles: Bundles,
    store: Store,
    options: Options,
    arch: str | None = None,
    top: Document | None = None,
) -> Plan:
    """Reads manifests and configs, no layers; ``source`` None is scratch, ``top`` what is known of it."""
    if arch is not None:
        bundles = {name: bundle for name, bundle in bundles.items() if name == arch}
    if not bundles:
        wanted = f"linux/{arch}" if arch else "any platform"
        raise UnsupportedError(
            f"There is no bundle for {wanted}; make one: graftbox bundle build --arch ARCH"
        )
    if any(bundle.is_oci_only for bundle in bundles.values()):
        options = dataclasses.replace(options, oci_types=True)  # for all platforms, and the index of them
    if source is None:
        bundle = next(iter(bundles.values()))
        return _plan((_planned(None, scratch(bundle.arch), bundle, store, options),), None)
    top = top or source.resolve()
    digest = top.config.digest if source.synthetic else top.digest
    options = dataclasses.replace(options, base_digest=digest)
    if not top.is_index:
        base = image_of(source, top)
        config = parse_object(base.config, f"The config of {options.base_name}")
        bundle = bundles.get(str(config.get("architecture"))) or next(iter(bundles.values()))
        return _plan((_planned(source, base, bundle, store, options),), None)
    return _plan_index(source, top, bundles, store, options, arch)


def _plan_index(
    source: Source,
    index: Document,
    bundles: Bundles,
    store: Store,
    options: Options,
    arch: str | None,
) -> Plan:
    found, dropped = platforms(index), []
    planned: dict[str, Planned] = {}
    for platform, descriptor in found:
        bundle = bundles.get(platform.arch)
        if platform.os != "linux" or bundle is None or (platform.arch == "arm" and platform.variant):
            dropped.append(str(platform))
            continue
        child = child_manifest(source, descriptor, options.base_name)
        child_options = dataclasses.replace(options, base_digest=child.digest)
        base = image_of(source, child)
        planned[descriptor.digest] = _planned(source, base, bundle, store, child_options)
    if not planned:
        have = ", ".join(str(platform) for platform, _ in found) or "no platform"
        ours = ", ".join(f"linux/{name}" for name in bundles)
        raise UnsupportedError(
            f"{options.base_name} has {have}, but the bundle is for {ours}. "
            "Build another: graftbox bundle build --arch ARCH"
        )
    notes = (f"left out, because there is no bundle for it: {', '.join(dropped)}",) if dropped else ()
    images = tuple(planned.values())
    if arch is not None:
        return _plan(images[:1], None, notes)
    children = {digest: item.image.manifest for digest, item in planned.items()}
    digests = ",".join(dict.fromkeys(item.bundle.digest for item in images if item.bundle))
    return _plan(images, graft_index(index, children, digests, options), notes)


def _plan(images: tuple[Planned, ...], index: Document | None, notes: tuple[str, ...] = ()) -> Plan:
    """The plan, with what is worth knowing about its images."""
    deep = [
        f"{item.platform} has {item.depth} layers; Docker's own store takes {DEEPEST}, others may take more"
        for item in images
        if item.depth > DEEPEST
    ]
    return Plan(images, index, (*notes, *deep))


def _planned(source: Source | None, base: Image, bundle: Bundle, store: Store, options: Options) -> Planned:
    image = graft(base, bundle, options)
    if len(image.manifest.entries("layers")) > DEEPEST and bundle.fewer is not None:
        bundle = bundle.fewer()
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
        bundle,
    )


def execute(plan: Plan, target: Target, progress: Callable[[str], None]) -> tuple[int, int]:
    """Places every image of the plan; returns how many layers and bytes had to be sent."""
    layers = size = 0
    for planned in plan.images:
        top = plan.index is None
        offered = (planned.image.manifest, planned.image.config, planned.blobs, top)
        missing, placed = target.offer(*offered), set[str]()
        while missing:
            for blob, sent in _put_all(missing, target):
                size += sent
                if sent and blob.diff_id:
                    layers += 1
                    progress(f"sent {blob.digest[:19]} ({sent / 1e6:.1f} MB)")
            placed |= {blob.digest for blob in missing}
            missing = target.offer(*offered)
            if again := [blob for blob in missing if blob.digest in placed]:
                raise VerificationError(
                    f"The target took {again[0].digest} and says that it lacks it. Run the command again; "
                    "if it fails again, its storage is at fault."
                )
    if plan.index is not None:
        target.offer(plan.index, b"", (), True)
    return layers, size


def _put_all(blobs: Sequence[Blob], target: Target) -> Iterator[tuple[Blob, int]]:
    """Each blob with the bytes that were sent for it."""
    for blob in blobs:
        if blob.diff_id and blob.path and not blob.path.is_file():
            raise VerificationError(
                f"The bundle's layer {blob.digest} is gone from the cache: build it again."
            )
    if target.parallel == 1 or len(blobs) == 1:
        yield from ((blob, target.put(blob)) for blob in blobs)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(target.parallel) as pool:
        yield from zip(blobs, pool.map(target.put, blobs), strict=True)

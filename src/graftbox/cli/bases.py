"""Brings the base image and the bundle to where an engine can use them."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.cli.engines import note
from graftbox.sandbox.spec import SERVER_COMMAND, EngineImage, UnpackedImage
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.image.reference import Reference
    from graftbox.image.transports import Access
    from graftbox.sandbox.engines import Engine
    from graftbox.sandbox.engines.docker import DockerEngine


@dataclass(frozen=True)
class Ready:
    """What a `SandboxSpec` says about the base and the bundle."""

    base: EngineImage | UnpackedImage
    tree: Path | None
    image: str
    """The image that runs, for people: the base itself, or the runtime image made of it."""


def prepare(
    engine: Engine,
    base: str,
    deliver: str,
    components: Sequence[str],
    tree: Path | None,
    store: Store,
    flavor: str = "tree",
    access: Access | None = None,
) -> Ready:
    """Makes the base runnable by ``engine``, with the bundle mounted (``mount``) or inside (``graft``)."""
    from graftbox.image.reference import parse
    from graftbox.sandbox.engines.docker import DockerEngine

    reference = parse(base)
    if deliver == "mount":
        # The image first: a wrong name is noticed before a bundle is built.
        if not isinstance(engine, DockerEngine):
            return _beside(reference, components, tree, store, flavor, access)
        found = EngineImage(_in_engine(engine, reference, store, access))
        return Ready(found, tree or bundle_tree(components, store, flavor), str(reference))
    if isinstance(engine, DockerEngine):
        name = _grafted_in_engine(engine, reference, components, store, flavor, access)
        return Ready(EngineImage(name), None, name)
    return Ready(_grafted_unpacked(reference, components, store, flavor, access), None, str(reference))


def _beside(
    reference: Reference,
    components: Sequence[str],
    tree: Path | None,
    store: Store,
    flavor: str,
    access: Access | None,
) -> Ready:
    """The base's files and the bundle's folder.

    Of an image that carries a bundle already, the bundle's layers are not unpacked: the same one is here as
    a folder, and another one would be hidden by it. Only where none is built here is the image's own used.
    """
    from graftbox.bundle import known
    from graftbox.image import unpack
    from graftbox.image.graft import Carried
    from graftbox.image.platforms import machine_architecture

    def keeps(bundle: Carried) -> bool:
        if tree is not None:
            return False
        wanted = known.current(machine_architecture(), tuple(components), store, flavor=flavor)
        same_kind = bundle.flavor == flavor and set(components) <= set(bundle.components)
        short = bundle.digest.removeprefix("sha256:")[:12]
        if wanted is None and same_kind:
            parts = ", ".join(bundle.components)
            note(f"the image's own bundle {short} ({parts}) is used, as none is built here")
            return True
        if wanted is None or wanted.digest != bundle.digest:
            note(f"the image's own bundle {short} is another one; the one that is asked for takes its place")
        return False

    found = unpack.unpacked(reference, store, access, keeps=keeps)
    image = UnpackedImage(found.rootfs, found.config.raw)
    if found.own_bundle:
        # As with a folder beside it, the server alone is started, not the base's entrypoint too.
        image = dataclasses.replace(image, config={**image.config, "Entrypoint": SERVER_COMMAND, "Cmd": ()})
        return Ready(image, None, str(reference))
    return Ready(image, tree or bundle_tree(components, store, flavor), str(reference))


def bundle_tree(components: Sequence[str], store: Store, flavor: str = "tree") -> Path:
    """The unpacked bundle for this machine, built first if need be."""
    from graftbox.bundle import known
    from graftbox.bundle import tree as trees
    from graftbox.image.platforms import machine_architecture

    arch = machine_architecture()
    manifest = known.current(arch, tuple(components), store, flavor=flavor)
    if manifest is None:
        from graftbox.bundle import build

        note("building the bundle; this happens once")
        manifest = build.build(arch=arch, components=tuple(components), store=store, flavor=flavor)
    return trees.unpacked(manifest, store)


def unpacked(reference: Reference, store: Store, access: Access | None = None) -> UnpackedImage:
    """The base's files in a folder, for the embedded engine."""
    from graftbox.image import unpack

    found = unpack.unpacked(reference, store, access)
    return UnpackedImage(found.rootfs, found.config.raw)


def _in_engine(engine: DockerEngine, reference: Reference, store: Store, access: Access | None = None) -> str:
    """The base's name in the engine, pulled by it or loaded into it where it lacks it."""
    from graftbox.image.reference import Transport
    from graftbox.image.transports import is_loopback

    if reference.transport is Transport.DOCKER_DAEMON and engine.name == "docker":
        return reference.image_name.familiar
    if reference.transport is Transport.REGISTRY:
        name = str(reference.image_name)
        if engine.has_image(name):
            return name
        # Podman insists on TLS even on the loopback interface, where Docker and graftbox do without.
        if engine.name == "docker" or not is_loopback(reference.image_name.host):
            note(f"{engine.name} pulls {name}")
            engine.pull(name)
            return name
    return _loaded(engine, reference, store, access)


def _host(engine: DockerEngine) -> str:
    """Podman takes a name without a registry for one of Docker Hub's, even if it has made it itself."""
    return "localhost/" if engine.name == "podman" else ""


def _loaded(engine: DockerEngine, reference: Reference, store: Store, access: Access | None) -> str:
    """The name under which an image from elsewhere was loaded, unchanged, into the engine."""
    from graftbox.image.blob import Blob
    from graftbox.image.graft import scratch
    from graftbox.image.place import Plan, Planned
    from graftbox.image.platforms import Platform, machine_architecture, select
    from graftbox.image.reference import Transport
    from graftbox.image.transports import open_source

    arch = machine_architecture()
    source = None
    try:
        if reference.transport is Transport.SCRATCH:
            image = scratch(arch)
        else:
            source = open_source(reference, store, access)
            image = select(source, arch, str(reference))
        name = f"{_host(engine)}graftbox-base:{image.manifest.config.digest.removeprefix('sha256:')[:24]}"
        if engine.has_image(name):
            return name
        diff_ids = _diff_ids(image.config)
        blobs = [Blob.of(image.config, image.manifest.config.media_type)]
        if source is not None:
            layers = zip(image.manifest.layers, diff_ids, strict=True)
            blobs += [source.blob(descriptor, diff_id) for descriptor, diff_id in layers]
        note(f"{engine.name} loads {reference}")
        planned = Planned(Platform("linux", arch), image.manifest, image, tuple(blobs))
        _send(engine, Plan((planned,), None, ()), name, store)
        return name
    finally:
        if source is not None:
            source.close()


def _diff_ids(config: bytes) -> list[str]:
    from graftbox.image.manifest import parse_object

    rootfs = parse_object(config, "The image's config").get("rootfs") or {}
    return list(rootfs.get("diff_ids") or ())


def _send(engine: DockerEngine, plan: object, name: str, store: Store) -> None:
    from graftbox.image.archive_target import ArchiveTarget
    from graftbox.image.docker_daemon import Daemon, DaemonTarget
    from graftbox.image.place import Plan, execute

    assert isinstance(plan, Plan)
    if engine.name == "docker":
        target = DaemonTarget(Daemon(engine.host), [name])
        try:
            execute(plan, target, lambda line: None)
        finally:
            target.close()
        return
    with tempfile.TemporaryDirectory(dir=store.folder("tmp")) as folder:
        archive = ArchiveTarget(Path(folder) / "image.tar", names=[name])
        try:
            execute(plan, archive, lambda line: None)
            archive.finish()
        finally:
            archive.close()
        engine.load(Path(folder) / "image.tar", name)


def _grafted_in_engine(
    engine: DockerEngine,
    reference: Reference,
    components: Sequence[str],
    store: Store,
    flavor: str,
    access: Access | None,
) -> str:
    """The name of a runtime image made in the engine."""
    from graftbox.cli.graft import bundles
    from graftbox.image.place import graft_image
    from graftbox.image.reference import ImageName, Transport, image_name, parse
    from graftbox.image.transports import Access

    slug = hashlib.sha256(f"{reference}\n{flavor} {','.join(components)}".encode()).hexdigest()[:24]
    name = f"{_host(engine)}graftbox-run:{slug}"
    if reference.transport is Transport.REGISTRY and engine.name == "docker":
        # In the daemon already, or pulled by it: then only the bundle's layers are sent.
        base: ImageName = image_name(_in_engine(engine, reference, store))
        reference = parse(f"docker-daemon:{base}")
    if engine.name == "docker":
        graft_image(
            reference,
            parse(f"docker-daemon:{name}"),
            bundles(components, None, store, flavor=flavor),
            store,
            access=dataclasses.replace(access or Access(), docker_host=engine.host),
        )
        return name
    with tempfile.TemporaryDirectory(dir=store.folder("tmp")) as folder:
        archive = f"{folder}/image.tar"
        graft_image(
            reference,
            parse(f"docker-archive:{archive}:{name}"),
            bundles(components, None, store, flavor=flavor),
            store,
            access=access,
        )
        engine.load(Path(archive), name)
    return name


def _grafted_unpacked(
    reference: Reference, components: Sequence[str], store: Store, flavor: str, access: Access | None
) -> UnpackedImage:
    """A runtime image's files: grafted into a layout for a moment, then unpacked."""
    from graftbox.cli.graft import bundles
    from graftbox.image.place import graft_image
    from graftbox.image.reference import parse

    with tempfile.TemporaryDirectory(dir=store.folder("tmp")) as folder:
        target = parse(f"oci:{folder}/image:run")
        graft_image(reference, target, bundles(components, None, store, flavor=flavor), store, access=access)
        return unpacked(target, store)

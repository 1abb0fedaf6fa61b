"""An image's files as one folder, in the cache; what the embedded engine starts from.

Folders are kept by chain ID (OCI image-spec, config.md), so images with the same layers share one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftbox.errors import FormatError
from graftbox.image.blob import Source
from graftbox.image.graft import Carried, Image, carried, scratch
from graftbox.image.manifest import Descriptor, parse_object
from graftbox.image.platforms import machine_architecture, select
from graftbox.image.reference import Reference, Transport
from graftbox.image.transports import Access, open_source
from graftbox.image.tree import Tree
from graftbox.store import Store, storage_errors


@dataclass(frozen=True)
class ImageConfig:
    """What an image says about its processes."""

    env: tuple[str, ...]
    user: str
    working_dir: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    raw: Mapping[str, Any]
    """The whole ``config`` object of the image's configuration."""

    @classmethod
    def read(cls, config: bytes) -> ImageConfig:
        """From the bytes of an image's configuration."""
        raw = parse_object(config, "The image's config").get("config") or {}
        words = {key: tuple(map(str, raw.get(key) or ())) for key in ("Env", "Entrypoint", "Cmd")}
        user, folder = str(raw.get("User") or ""), str(raw.get("WorkingDir") or "/")
        return cls(words["Env"], user, folder, words["Entrypoint"], words["Cmd"], raw)


@dataclass(frozen=True)
class Unpacked:
    """An image on this machine's disk; never write below ``rootfs``."""

    rootfs: Path
    config: ImageConfig
    digest: str
    """Of the image's manifest."""
    own_bundle: bool = False
    """Whether a bundle's layers, which a graft has added, are among the files."""


def unpacked(
    reference: Reference,
    store: Store,
    access: Access | None = None,
    arch: str | None = None,
    keeps: Callable[[Carried], bool] = lambda bundle: True,
) -> Unpacked:
    """The image's flattened root file system; layers are read only if it is not in the cache.

    ``keeps`` is asked about an image that carries a bundle; without its layers, the files are the base's.
    Raises `VerificationError` or `FormatError` for damaged layers; then nothing is kept.
    """
    arch = arch or machine_architecture()
    if reference.transport is Transport.SCRATCH:
        image = scratch(arch)
        return Unpacked(rootfs([], None, store), ImageConfig.read(image.config), image.manifest.digest)
    with contextlib.closing(open_source(reference, store, access, whole=False)) as source:
        image = select(source, arch, reference.portable)
        bundle = carried(image.config)
        kept = bundle is not None and keeps(bundle)
        facts = ImageConfig.read(image.config), image.manifest.digest, kept
        layers = _layers(image, None if kept else bundle)
        if reference.transport is not Transport.DOCKER_DAEMON or _cached(layers, store):
            return Unpacked(rootfs(layers, source, store), *facts)
    with contextlib.closing(open_source(reference, store, access)) as source:
        layers = _layers(select(source, arch, reference.portable), None if kept else bundle)
        return Unpacked(rootfs(layers, source, store), *facts)


def chain_id(diff_ids: Sequence[str]) -> str:
    """The hex name of a stack of layers; of none, the name of nothing."""
    chain = ""
    for diff_id in diff_ids:
        chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest() if chain else diff_id
    return chain.removeprefix("sha256:") or hashlib.sha256(b"").hexdigest()


def diff_ids(image: Image) -> list[str]:
    """The diff IDs in an image's config, lowest first."""
    rootfs = parse_object(image.config, "The image's config").get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    found = [str(item) for item in found or []]
    if len(found) != len(image.manifest.layers):
        raise FormatError("The image is damaged: its manifest and config disagree about its layers.")
    return found


def cached(image: Image, store: Store) -> Path | None:
    """The image's unpacked folder, if it is in the cache."""
    return _cached(_layers(image, None), store)


def _layers(image: Image, without: Carried | None) -> list[tuple[Descriptor, str]]:
    """Each layer and its diff ID, lowest first, less those of a bundle."""
    layers = list(zip(image.manifest.layers, diff_ids(image), strict=True))
    if without:
        del layers[without.layers]
    return layers


def _cached(layers: Sequence[tuple[Descriptor, str]], store: Store) -> Path | None:
    path = store.root / "rootfs" / chain_id([diff_id for _, diff_id in layers])
    return path if store.used(path) else None


def rootfs(layers: Sequence[tuple[Descriptor, str]], source: Source | None, store: Store) -> Path:
    """The folder with these layers, made whole or not at all; ``source`` None is scratch, which has none."""
    if path := _cached(layers, store):
        return path
    name = chain_id([diff_id for _, diff_id in layers])
    with storage_errors(store.root), store.lock(f"rootfs-{name[:16]}"):
        if path := _cached(layers, store):
            return path
        with store.temporary_folder() as folder:
            root = folder / "rootfs"
            root.mkdir(mode=0o755)
            tree = Tree(root)
            for descriptor, diff_id in layers:
                assert source is not None, "scratch has no layers"
                tree.apply(source.blob(descriptor, diff_id))
            tree.seal()
            target = store.folder("rootfs") / name
            root.rename(target)
            return target

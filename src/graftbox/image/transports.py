"""Opens the source or target that a reference names; each transport is imported only when it is used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from graftbox.errors import UsageError
from graftbox.image.blob import Source, Target
from graftbox.image.reference import ImageName, Reference, Transport
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.image.connection import Registries


@dataclass(frozen=True)
class Access:
    """How to reach what is not a file."""

    insecure: frozenset[str] = frozenset()
    """Registry hosts that may be spoken to in plain HTTP; loopback addresses always may."""
    docker_host: str | None = None
    """The Docker daemon's address; else ``$DOCKER_HOST``, else its usual socket."""
    authority: Path | None = None
    """A further certificate authority for registries: a PEM file, or a folder of them."""
    registries: Registries | None = None
    """Registry hosts that many images share; the two settings above are then theirs."""

    def shared(self, parallel: int) -> Registries:
        """Hosts for many images, with up to ``parallel`` requests under way at each."""
        from graftbox.image.connection import Registries
        from graftbox.image.host import Settings

        return Registries(Settings(self.insecure, self.authority, parallel))


def open_source(
    reference: Reference, store: Store, access: Access | None = None, whole: bool = True
) -> Source:
    """The source of an image. Without ``whole``, layers of Docker's and podman's images are unreadable."""
    access = access or Access()
    if reference.transport is Transport.LAYOUT:
        from graftbox.image.layout import LayoutSource

        return LayoutSource(reference.file, reference.selector)
    if reference.transport is Transport.REGISTRY:
        from graftbox.image.registry import RegistrySource

        return RegistrySource(reference.image_name, access.insecure, access.registries, access.authority)
    if reference.transport is Transport.DOCKER_DAEMON:
        from graftbox.image.docker_daemon import Daemon, DaemonSource, exported

        daemon = Daemon(access.docker_host)
        if whole or daemon.uses_containerd_store():
            return exported(daemon, reference.image_name, store)
        return DaemonSource(daemon, reference.image_name)
    if reference.transport is Transport.PODMAN:
        from graftbox.image.podman import PodmanSource, exported_by_podman

        return (exported_by_podman if whole else PodmanSource)(reference.image_name, store)
    if reference.transport is Transport.CONTAINERD:
        from graftbox.image.containerd import ContainerdSource

        return ContainerdSource(reference.image_name, reference.selector)
    if reference.transport in {Transport.DOCKER_ARCHIVE, Transport.OCI_ARCHIVE}:
        from graftbox.image.archive import archive_source

        return archive_source(reference)
    raise UsageError("scratch is the empty image; there is nothing to read from it.")


def open_target(
    reference: Reference, store: Store, tags: Sequence[str] = (), access: Access | None = None
) -> Target:
    """The target; ``tags`` are further tags beside the reference's own."""
    access = access or Access()
    if reference.transport is Transport.SCRATCH:
        raise UsageError("scratch cannot be a target; name a registry image, a layout or an archive.")
    if reference.name and reference.name.digest:
        raise UsageError(f"{reference} names a digest; a target needs a tag, its digest is the result.")
    if reference.path and reference.selector and reference.selector.startswith("sha256:"):
        raise UsageError(f"{reference} names a digest; a target needs a tag, its digest is the result.")
    names = target_tags(reference, tags)
    if reference.transport is Transport.LAYOUT:
        from graftbox.image.layout import LayoutTarget

        return LayoutTarget(reference.file, names)
    if reference.transport is Transport.REGISTRY:
        from graftbox.image.registry_target import RegistryTarget

        return RegistryTarget(
            reference.image_name, names, store, access.insecure, access.registries, access.authority
        )
    if reference.transport is Transport.DOCKER_DAEMON:
        from graftbox.image.docker_daemon import Daemon, DaemonTarget

        return DaemonTarget(Daemon(access.docker_host), _names(reference.image_name, names))
    if reference.transport is Transport.PODMAN:
        from graftbox.image.podman import PodmanTarget

        return PodmanTarget(_full_names(reference.image_name, names))
    if reference.transport is Transport.CONTAINERD:
        from graftbox.image.containerd import ContainerdTarget

        return ContainerdTarget(_full_names(reference.image_name, names), reference.selector)
    from graftbox.image.archive_target import ArchiveTarget

    if reference.transport is Transport.OCI_ARCHIVE:
        return ArchiveTarget(reference.file, names)
    return ArchiveTarget(reference.file, names, _names(reference.name, names) if reference.name else ())


def target_tags(reference: Reference, tags: Sequence[str] = ()) -> tuple[str, ...]:
    """The tags that the result will have, the reference's own first."""
    own = reference.name.tag if reference.name else reference.selector
    return tuple(dict.fromkeys(([own] if own else []) + list(tags)))


def _names(name: ImageName, tags: Sequence[str]) -> tuple[str, ...]:
    return tuple(ImageName(name.host, name.repository, tag, None).familiar for tag in tags)


def _full_names(name: ImageName, tags: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(ImageName(name.host, name.repository, tag, None)) for tag in tags)


def same_engine(base: Reference, target: Reference) -> bool:
    """Whether both are images of one Docker or podman, so that the base's layers need not be read."""
    return base.transport is target.transport and base.transport.names_configs


def is_loopback(host: str) -> bool:
    """Whether ``HOST[:PORT]`` is this machine, where plain HTTP is as private as TLS."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in {"localhost", "::1"} or re.fullmatch(r"127(\.[0-9]{1,3}){3}", name) is not None

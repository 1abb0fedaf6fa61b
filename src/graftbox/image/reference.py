"""Where an image is: transport plus name or path, in skopeo's spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from graftbox.errors import UsageError

DOCKER_HUB = "docker.io"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_WORDS = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF_NAME = re.compile(rf"{_WORDS}(?:/{_WORDS})*")
"""What ``org.opencontainers.image.ref.name`` may be (image-spec, annotations.md): a tag or a whole name."""
_NAMESPACE = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Transport(Enum):
    """The kinds of places an image can be in; the value is how users spell it."""

    REGISTRY = "docker"
    DOCKER_DAEMON = "docker-daemon"
    PODMAN = "containers-storage"
    CONTAINERD = "containerd"
    LAYOUT = "oci"
    DOCKER_ARCHIVE = "docker-archive"
    OCI_ARCHIVE = "oci-archive"
    SCRATCH = "scratch"

    @property
    def holds_many_platforms(self) -> bool:
        """Whether an index with several platforms can be stored there."""
        return self in {Transport.REGISTRY, Transport.LAYOUT, Transport.OCI_ARCHIVE}

    @property
    def is_oci_only(self) -> bool:
        """Whether manifests of Docker's own types would not be found there."""
        archives = {Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE}
        return self in {Transport.LAYOUT, Transport.PODMAN, *archives}

    @property
    def names_configs(self) -> bool:
        """Whether an image's identity there is the digest of its config: no manifests are kept."""
        return self in {Transport.DOCKER_DAEMON, Transport.PODMAN}


@dataclass(frozen=True)
class ImageName:
    """A registry name, normalised: ``docker.io/library/`` and ``:latest`` are spelt out."""

    host: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def selector(self) -> str:
        """What a registry is asked for; a digest beats a tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """The short form that the docker command line prints."""
        text = str(self)
        text = text.removeprefix(f"{DOCKER_HUB}/library/") if self.host == DOCKER_HUB else text
        return text.removeprefix(f"{DOCKER_HUB}/")


@dataclass(frozen=True)
class Reference:
    """One image in one place.

    ``name`` is set for registries and engines, ``path`` for layouts and archives; ``selector`` is the tag,
    reference or digest inside a layout or archive, or the namespace in containerd, if one was given.
    """

    transport: Transport
    name: ImageName | None = None
    path: Path | None = None
    selector: str | None = None

    @property
    def image_name(self) -> ImageName:
        """The name, for the transports that always have one: registries and engines."""
        assert self.name is not None, self
        return self.name

    @property
    def file(self) -> Path:
        """The path, for the three transports that always have one."""
        assert self.path is not None, self
        return self.path

    def __str__(self) -> str:
        if self.transport is Transport.SCRATCH:
            return "scratch"
        if self.transport is Transport.REGISTRY:
            return f"docker://{self.name}"
        if self.transport is Transport.DOCKER_DAEMON:
            return f"docker-daemon:{self.image_name.familiar}"
        if self.transport in {Transport.PODMAN, Transport.CONTAINERD}:
            return f"{self.transport.value}:{f'[{self.selector}]' if self.selector else ''}{self.name}"
        joint = "@" if self.selector and _DIGEST.fullmatch(self.selector) else ":"
        return f"{self.transport.value}:{self.path}" + (f"{joint}{self.selector}" if self.selector else "")

    @property
    def portable(self) -> str:
        """What labels record: a registry name as it is; of a path only the last part, no folder."""
        if self.transport is Transport.REGISTRY:
            return str(self.name)
        if self.path is None:
            return str(self)
        return str(replace(self, path=Path(self.path.absolute().name)))


def parse(text: str) -> Reference:
    """Reads ``[TRANSPORT:]…``; without a transport it is a registry image, or ``scratch``.

    Raises `UsageError` for anything else, saying what is wrong with it.
    """
    if text == "scratch":
        return Reference(Transport.SCRATCH)
    if text.startswith("docker://"):
        return Reference(Transport.REGISTRY, name=image_name(text.removeprefix("docker://")))
    transport, colon, rest = text.partition(":")
    if colon and transport == "docker-daemon":
        return Reference(Transport.DOCKER_DAEMON, name=image_name(rest))
    if colon and transport == "containers-storage":
        return Reference(Transport.PODMAN, name=image_name(rest))
    if colon and transport == "containerd":
        return _parse_containerd(rest, text)
    if colon and transport in {"oci", "docker-archive", "oci-archive"}:
        return _parse_path(Transport(transport), rest, text)
    if colon and transport in {"dir", "docker"}:
        raise UsageError(
            f"{text!r} is not a reference that graftbox understands: use docker://NAME, docker-daemon:NAME, "
            "containers-storage:NAME, containerd:[NAMESPACE]NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG], "
            "docker-archive:FILE[:REFERENCE] or scratch."
        )
    if text.startswith(("/", "./", "../", "~")):
        raise UsageError(
            f"{text!r} is a path: write oci:DIR for an OCI layout, or docker-archive:FILE or "
            "oci-archive:FILE for an image in a tar file."
        )
    return Reference(Transport.REGISTRY, name=image_name(text))


def _parse_containerd(rest: str, text: str) -> Reference:
    namespace = None
    if rest.startswith("["):
        namespace, closed, rest = rest[1:].partition("]")
        if not closed or not _NAMESPACE.fullmatch(namespace):
            raise UsageError(f"{text!r}: write containerd:[NAMESPACE]NAME, such as containerd:[k8s.io]app:1.")
    return Reference(Transport.CONTAINERD, name=image_name(rest), selector=namespace)


def _is_host(text: str) -> bool:
    """``HOST[:PORT]``, as far as that can be told without asking for it."""
    if not _HOST.fullmatch(text):
        return False
    try:
        parts = urlsplit(f"//{text}")
        labels = (parts.hostname or "").split(".")
        return (parts.port or 0) <= 65535 and all(0 < len(label) < 64 for label in labels)
    except ValueError:
        return False


def _parse_path(transport: Transport, rest: str, text: str) -> Reference:
    # As skopeo does: the first colon (or @ before a digest) ends the path.
    path, at, selector = rest.partition("@")
    if not (at and _DIGEST.fullmatch(selector)):
        path, _, selector = rest.partition(":")
    if not path:
        raise UsageError(f"{text!r} names no path; write {transport.value}:PATH, optionally with :TAG.")
    if selector and transport is Transport.DOCKER_ARCHIVE and not _DIGEST.fullmatch(selector):
        name = image_name(selector)
        return Reference(transport, name=name, path=Path(path), selector=str(name))
    if selector and not (_REF_NAME.fullmatch(selector) or _TAG.fullmatch(selector)):
        raise UsageError(
            f"{text!r}: {selector!r} cannot name an image there; write {transport.value}:{path}:TAG with a "
            "tag of letters, digits, . _ -."
        )
    return Reference(transport, path=Path(path), selector=selector or None)


def checked_tag(text: str) -> str:
    """The tag itself; `UsageError` if it is none."""
    if not _TAG.fullmatch(text):
        raise UsageError(f"{text!r} is not a tag (letters, digits, . _ -, at most 128).")
    return text


def image_name(text: str) -> ImageName:
    """Reads ``[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`` and normalises it as Docker does."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise UsageError(
            f"{text!r}: {digest!r} is not a digest; it should read sha256: and 64 lower-case hex digits."
        )
    first, slash, remainder = rest.partition("/")
    if slash and (set(first) & set(".:[") or first == "localhost" or first != first.lower()):
        host, rest = first, remainder
    else:
        host = DOCKER_HUB
    tag: str | None
    rest, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise UsageError(f"{text!r}: {tag!r} is not a tag (letters, digits, . _ -, at most 128).")
    if not _is_host(host):
        raise UsageError(f"{text!r}: {host!r} is not the name of a registry (HOST or HOST:PORT).")
    host = host.lower()
    if host in {"index.docker.io", "registry-1.docker.io"}:
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    if not _REPOSITORY.fullmatch(rest):
        hint = " Repository names are lower-case." if rest != rest.lower() else ""
        raise UsageError(
            f"{text!r} is not an image name such as ubuntu:24.04 or registry:5000/team/app.{hint}"
        )
    if not colon:
        tag = None if digest else "latest"
    return ImageName(host, rest, tag, digest or None)

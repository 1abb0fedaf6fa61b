"""Platforms: what an index offers, what this machine is, and the image that fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftbox.errors import FormatError, UnsupportedError
from graftbox.image.blob import Source, read
from graftbox.image.graft import Image
from graftbox.image.manifest import Descriptor, Document


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
        """From an index's ``platform`` or from a config."""
        raw = raw if isinstance(raw, dict) else {}
        return cls(*(str(raw.get(key) or "") for key in ("os", "architecture", "variant")))


def machine_architecture() -> str:
    """This machine's architecture as images name it."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def architecture(platform: str) -> str:
    """The architecture in ``linux/arm64`` or ``arm64``; `UnsupportedError` for another system."""
    parts = platform.split("/")
    system, arch = (parts[0], parts[1]) if len(parts) > 1 else ("linux", parts[0])
    if system != "linux":
        raise UnsupportedError(f"graftbox works on Linux images only, not on {platform}.")
    return arch


def platforms(index: Document) -> list[tuple[Platform, Descriptor]]:
    """The images of an index; attestations and other artifacts are no images."""
    found = []
    for entry in index.entries("manifests"):
        if not isinstance(entry, dict):
            raise FormatError("The image's index holds something that is no descriptor.")
        platform = Platform.read(entry.get("platform"))
        if platform.os == "unknown" or entry.get("artifactType"):
            continue
        found.append((platform, Descriptor.read(entry, "The image's index")))
    return found


def child_manifest(source: Source, descriptor: Descriptor, name: str) -> Document:
    """One image of an index."""
    child = source.manifest(descriptor)
    if child.is_index:
        raise UnsupportedError(f"{name} is an index of indexes; name one of them by its digest.")
    return child


def image_of(source: Source, manifest: Document) -> Image:
    """The manifest with its config, read and verified."""
    return Image(manifest, read(source.blob(manifest.config)))


def select(source: Source, arch: str, name: str) -> Image:
    """The image for ``arch``: the only one, or the index's entry for it."""
    top = source.resolve()
    if not top.is_index:
        return image_of(source, top)
    found = platforms(top)
    for platform, descriptor in found:
        if platform.os == "linux" and platform.arch == arch:
            return image_of(source, child_manifest(source, descriptor, name))
    have = ", ".join(str(platform) for platform, _ in found) or "no platform"
    raise UnsupportedError(f"{name} has {have}, not linux/{arch}.")

"""The three tags of a runtime image, made from what it consists of, and the repository that it goes to.

``oh_v{version}_{lock}_{source}`` names exactly this code, ``oh_v{version}_{lock}`` these dependencies on
this base, ``oh_v{version}_{base slug}`` this release on this base. ``lock`` and ``source`` are hashes of
content, so equal inputs have equal tags on every machine, and another name for the same base changes nothing.
Another flavour than the usual one follows the version: ``oh_v{version}-pyinstaller_{base slug}``.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from graftbox.errors import UsageError
from graftbox.image.graft import SERVER, Bundle
from graftbox.image.manifest import serialise
from graftbox.image.reference import DOCKER_HUB, ImageName, Reference, Transport, image_name

PREFIX = "oh_v"
LONGEST_TAG = 128
LONGEST_REPOSITORY = 200
"""Characters; many registries refuse names of 256 characters, their own host included."""
HASH = 16
"""Base-36 digits of a hash in a tag: 82 bits."""
SERVER_LAYER = "server"
"""The bundle's layer that holds the server's code, and nothing else."""

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.-]")
_MARKS = re.compile(r"_[std]_")
_NOT_A_PATH = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Choice:
    """What is grafted onto a base: everything but the base itself decides the result."""

    bundles: Mapping[str, Bundle]
    """By architecture."""
    user: str | None = None
    keep_entrypoint: bool = False
    platform: str | None = None

    @functools.cached_property
    def parts(self) -> Parts:
        """The bundles' part of every tag."""
        bundles = {arch: self.bundles[arch] for arch in sorted(self.bundles)}
        return Parts(
            _ILLEGAL.sub("-", next(iter(bundles.values())).version),
            {arch: bundle.lock for arch, bundle in bundles.items()},
            {arch: _layers(bundle, server=False) for arch, bundle in bundles.items()},
            _hash({arch: _layers(bundle, server=True) for arch, bundle in bundles.items()}),
            any(layer.compression != "gzip" for bundle in bundles.values() for layer in bundle.layers),
            next(iter(bundles.values())).flavor,
        )


@dataclass(frozen=True)
class Parts:
    """What bundles bring into tags: their locks, and the diff IDs of their layers, by architecture."""

    version: str
    locks: Mapping[str, str]
    layers: Mapping[str, list[str]]
    source: str
    is_zstd: bool
    flavor: str


@dataclass(frozen=True)
class Input:
    """One thing that the tags are made from; ``decides`` names the tags in which it counts."""

    name: str
    value: str
    decides: tuple[str, ...]


@dataclass(frozen=True)
class Tags:
    """The tags of one runtime image, each at most 128 characters of the legal alphabet."""

    source: str
    lock: str
    versioned: str
    inputs: tuple[Input, ...]

    @property
    def in_order(self) -> tuple[str, str, str]:
        """As they are written: the one that is looked for comes last, so it vouches for the others."""
        return self.lock, self.versioned, self.source


def tags_of(base: Reference, base_digest: str, choice: Choice) -> Tags:
    """The tags of the runtime image of ``base``, whose content is ``base_digest``."""
    parts = choice.parts
    version, locks, layers = parts.version, parts.locks, parts.layers
    options = {
        "entrypoint": list(SERVER),
        "keep_entrypoint": choice.keep_entrypoint,
        "platform": choice.platform,
        "user": choice.user,
    }
    # gzip is not named, so that its tags stay; eStargz layers have other diff IDs already.
    if parts.is_zstd:
        options["compression"] = "zstd"
    lock_hash = _hash({"base": base_digest, "layers": layers, "lock": locks, "options": options})
    slug = _slug(base)
    both, lock_only = ("source", "lock"), ("source", "lock")
    inputs = (
        Input("version", version, ("source", "lock", "versioned")),
        Input("base digest", base_digest, both),
        Input("bundle lock", _listed(locks), lock_only),
        Input("bundle layers", _listed({arch: _hash(value) for arch, value in layers.items()}), lock_only),
        Input("options", serialise(options).decode(), lock_only),
        Input("server code", parts.source, ("source",)),
        Input("base name", _written(base), ("versioned",)),
        Input("flavour", parts.flavor, ("versioned",)),
    )
    # The usual flavour is not named, so that its tags stay; the other tags differ already, by the layers.
    release = version if parts.flavor == Bundle.flavor else f"{version}-{parts.flavor}"
    lock = f"{PREFIX}{version}_{lock_hash}"
    return Tags(
        _fitting(f"{lock}_{parts.source}"), _fitting(lock), _fitting(f"{PREFIX}{release}_{slug}"), inputs
    )


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{arch} {value}" for arch, value in values.items())


def _layers(bundle: Bundle, server: bool) -> list[str]:
    return [layer.diff_id for layer in bundle.layers if (layer.name == SERVER_LAYER) is server]


def _hash(value: object) -> str:
    """16 base-36 digits of the value's SHA-256."""
    number = int.from_bytes(hashlib.sha256(serialise(value)).digest(), "big")
    digits = []
    for _ in range(HASH):
        number, digit = divmod(number, 36)
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _written(base: Reference) -> str:
    """The base's name as people write it."""
    return base.name.familiar if base.transport is Transport.REGISTRY and base.name else base.portable


def _slug(base: Reference) -> str:
    """The name with ``/`` as ``_s_``, ``:`` as ``_t_`` and ``@sha256:`` as ``_d_``.

    Where two names could get the same slug that way, a hash of the whole name tells them apart.
    """
    written = _written(base)
    slug = written.replace("@sha256:", "_d_").replace("/", "_s_").replace(":", "_t_")
    legal = _ILLEGAL.sub("-", slug)
    if legal != slug or _MARKS.search(written):
        return f"{legal}_{_hash(written)}"
    return legal


def _fitting(tag: str) -> str:
    """A tag that is too long, cut in the middle: its start, a hash of the whole, its end."""
    if len(tag) <= LONGEST_TAG:
        return tag
    middle = f"_{_hash(tag)}_"
    start = tag[: LONGEST_TAG // 4]
    return start + middle + tag[-(LONGEST_TAG - len(start) - len(middle)) :]


def repository(text: str) -> ImageName:
    """Reads ``[HOST[:PORT]/]NAME``; raises `UsageError` if a tag or digest follows."""
    last = text.removeprefix("docker://").rpartition("/")[2]
    if ":" in last or "@" in last:
        raise UsageError(
            f"{text!r}: a repository has no tag or digest here; graftbox makes the tags itself. "
            "Write HOST[:PORT]/NAME."
        )
    name = image_name(text.removeprefix("docker://"))
    return ImageName(name.host, name.repository, None, None)


def repository_for(base: Reference, target: ImageName, naming: str) -> ImageName:
    """Where the runtime image of ``base`` goes: ``tags`` is one repository for all, ``repos`` one each."""
    if naming == "tags":
        return target
    if base.transport is Transport.REGISTRY and base.name:
        name = base.name
        path = (
            name.repository
            if name.host == DOCKER_HUB
            else f"{_NOT_A_PATH.sub('-', name.host)}/{name.repository}"
        )
        path = path.removeprefix("library/") if name.host == DOCKER_HUB else path.lstrip("-")
    else:
        path = _NOT_A_PATH.sub("-", base.portable.lower()).strip("-") or "base"
    full = f"{target.repository}/{path}"
    if len(full) > LONGEST_REPOSITORY:
        full = f"{target.repository}/{_hash(path)}"
    return ImageName(target.host, full, None, None)

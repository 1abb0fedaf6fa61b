"""What a runtime image says about itself in its labels: its base, its bundle, the options of its graft."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftbox.errors import FormatError, NotFoundError, UnsupportedError, UsageError, VerificationError
from graftbox.image.blob import Source
from graftbox.image.difference import between_images
from graftbox.image.graft import (
    BASE_DIGEST,
    BASE_NAME,
    BASE_USER,
    BUNDLE,
    COMPONENTS,
    FLAVOR,
    LAYERS,
    SERVER,
    VERSION,
    Bundle,
    BundleLayer,
    Image,
    Options,
    graft,
    is_merged,
    mark,
    scratch,
)
from graftbox.image.manifest import DOCKER_MANIFEST, Document, parse_object
from graftbox.image.platforms import image_of, platforms, select
from graftbox.image.reference import Reference, Transport, parse

EVENT = "graftbox graft "
"""How the history entry of a bundle layer begins; its name follows."""


@dataclass(frozen=True)
class Claim:
    """The labels of one platform of a runtime image. Nothing of it is trusted: it says what to check."""

    arch: str
    base: str
    base_digest: str | None
    bundle: str
    version: str
    components: tuple[str, ...]
    options: Options
    flavor: str = Bundle.flavor
    merged: bool = False
    """Whether its bundle has all components in one layer."""

    @classmethod
    def read(cls, image: Image) -> Claim:
        """Raises `FormatError` for an image that carries no bundle."""
        config = parse_object(image.config, "The image's config")
        process = config.get("config")
        labels = process.get("Labels") if isinstance(process, dict) else None
        if not isinstance(process, dict) or not isinstance(labels, dict) or not labels.get(BUNDLE):
            raise FormatError(f"The image has no label {BUNDLE}: it was not made by graftbox graft.")
        texts = {str(key): str(value) for key, value in labels.items()}
        base, digest = texts.get(BASE_NAME, ""), texts.get(BASE_DIGEST)
        words = process.get("Entrypoint")
        marked = [*SERVER, "--"]
        options = Options(
            base,
            digest,
            user=str(process.get("User") or "") if BASE_USER in texts else None,
            keep_entrypoint=isinstance(words, list) and words[: len(marked)] == marked,
            oci_types=image.manifest.media_type != DOCKER_MANIFEST,
        )
        components = tuple(texts.get(COMPONENTS, "").split(","))
        return cls(
            arch=str(config.get("architecture")),
            base=base,
            base_digest=digest,
            bundle=texts[BUNDLE],
            version=texts.get(VERSION, ""),
            components=components,
            options=options,
            flavor=texts.get(FLAVOR, Bundle.flavor),
            merged=is_merged(components, texts.get(LAYERS, "")),
        )

    def expected(self, base: Image, bundle: Bundle) -> Image:
        """What the graft that is claimed makes of this base and this bundle."""
        return graft(base, bundle, self.options)


def recorded_base(claim: Claim) -> Reference:
    """Where the base can be read again, by the digest that was recorded.

    Raises `NotFoundError` if only its owner can know.
    """
    if claim.base == "scratch" and not claim.base_digest:
        return Reference(Transport.SCRATCH)
    try:
        reference = parse(claim.base)
    except UsageError as error:
        raise NotFoundError(f"The label {BASE_NAME} names no image: {error}") from error
    if reference.path is not None:
        raise NotFoundError(
            f"The image was made of {claim.base}, a file or folder of some machine. "
            "Say where it is now: --base TRANSPORT:PATH"
        )
    if not claim.base_digest:
        raise NotFoundError(f"The image has no label {BASE_DIGEST}, so its base cannot be told.")
    if reference.transport is Transport.REGISTRY:
        pinned = dataclasses.replace(reference.image_name, tag=None, digest=claim.base_digest)
        return Reference(Transport.REGISTRY, name=pinned)
    return reference


def base_image(source: Source | None, claim: Claim, name: str) -> Image:
    """The base with the claimed digest. Raises `VerificationError` if ``name`` stands for another one."""
    if source is None:
        return scratch(claim.arch)
    top = source.resolve()
    digest = top.config.digest if source.synthetic else top.digest
    if digest == claim.base_digest and not top.is_index:
        return image_of(source, top)
    if top.is_index:
        for _, descriptor in platforms(top):
            if descriptor.digest == claim.base_digest:
                return image_of(source, source.manifest(descriptor))
    raise VerificationError(
        f"The image says that it was made of {claim.base_digest}, but {name} is {digest}. If its tag has "
        "moved since, name the base by that digest."
    )


def pushed_bundle(source: Source, arch: str, name: str) -> Bundle:
    """The bundle whose own image (``graftbox bundle push``) this is; checked to hold nothing else."""
    image = select(source, arch, name)
    claim = Claim.read(image)
    config = parse_object(image.config, f"The config of {name}")
    bundle = Bundle(
        arch=claim.arch,
        digest=claim.bundle,
        version=claim.version,
        components=claim.components,
        layers=tuple(_layers(image.manifest, config)),
        flavor=claim.flavor,
    )
    if claim.arch != arch:
        raise UnsupportedError(f"{name} is a bundle for linux/{claim.arch}, not for linux/{arch}.")
    expected = graft(scratch(arch), bundle, dataclasses.replace(claim.options, user=None))
    if problems := between_images(expected, image, not source.synthetic):
        raise VerificationError(f"{name} is not a bundle's own image (graftbox bundle push): {problems[0]}")
    return bundle


def _layers(manifest: Document, config: Mapping[str, Any]) -> list[BundleLayer]:
    diff_ids = config["rootfs"]["diff_ids"]
    history = [entry for entry in config.get("history") or [] if not entry.get("empty_layer")]
    labelled = config["config"]["Labels"].get(LAYERS) == mark(diff_ids)
    if not labelled or not len(diff_ids) == len(history) == len(manifest.layers):
        raise VerificationError("The bundle's image has other layers than its labels say.")
    return [
        BundleLayer(
            _name(entry),
            "",
            layer.digest,
            diff_id,
            0,
            layer.size,
            "zstd" if layer.media_type.endswith("+zstd") else "gzip",
            _annotations(raw),
        )
        for layer, raw, diff_id, entry in zip(
            manifest.layers, manifest.entries("layers"), diff_ids, history, strict=True
        )
    ]


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("created_by", "")).removeprefix(EVENT).partition(" ")[0]


def _annotations(descriptor: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    value = descriptor.get("annotations")
    return tuple(sorted((str(k), str(v)) for k, v in value.items())) if isinstance(value, dict) else ()

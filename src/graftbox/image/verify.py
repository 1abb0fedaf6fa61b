"""Proves that an image is exactly base + bundle, by making the graft again and comparing the bytes.

`graft` is a pure function, so there is no list of what may differ: the base (read by its recorded digest),
a known bundle and the options that the labels name give one config and one manifest, and the image's are
equal to them or not.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graftbox.errors import (
    FormatError,
    GraftboxError,
    NotFoundError,
    TransportError,
    UnsupportedError,
    VerificationError,
)
from graftbox.image.attestation import Attached
from graftbox.image.attestation import check as check_attached
from graftbox.image.blob import Blob, Sized, Source
from graftbox.image.claim import Claim, base_image, pushed_bundle, recorded_base
from graftbox.image.difference import Difference, between_bytes, between_images
from graftbox.image.graft import BASE_DIGEST, BASE_NAME, Bundle, Image, Options, graft_index
from graftbox.image.layer import damage_in_words, decompressed
from graftbox.image.manifest import OCI_INDEX, Descriptor, Document, parse_object
from graftbox.image.platforms import Platform, child_manifest, image_of, platforms
from graftbox.image.reference import Reference, Transport
from graftbox.image.transports import Access, open_source
from graftbox.store import Store

Known = Callable[[str, str], Sequence[Bundle]]
"""(bundle digest, architecture) -> the bundles of that digest that this machine has built."""

DAMAGE = (VerificationError, FormatError, UnsupportedError)
"""Errors that say something about the image itself."""


@dataclass(frozen=True)
class Checked:
    """One platform of the image: what it says that it is, and where it is not."""

    platform: str
    digest: str
    base: str = ""
    base_digest: str | None = None
    bundle: str = ""
    version: str = ""
    components: tuple[str, ...] = ()
    user: str | None = None
    """The user that the graft was told to set; None where the base's was kept."""
    keep_entrypoint: bool = False
    base_layers: int = 0
    bundle_layers: int = 0
    bytes_read: int = 0
    """Of layers; 0 unless they were asked for."""
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The whole image; ``differences`` are those of the index or of what has no platform."""

    image: str
    digest: str
    platforms: tuple[Checked, ...] = ()
    differences: tuple[Difference, ...] = ()
    attached: tuple[Attached, ...] = ()
    """Artifacts that the registry has for this image."""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def all_differences(self) -> list[Difference]:
        wrong = [Difference(f"attached {one.digest}", one.problem) for one in self.attached if one.problem]
        return [*self.differences, *(d for one in self.platforms for d in one.differences), *wrong]

    @property
    def ok(self) -> bool:
        return not self.all_differences

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True)
class Question:
    """What is asked about an image."""

    image: Reference
    known: Known
    store: Store
    base: Reference | None = None
    """Where the base is, if not where the image says."""
    bundle: Reference | None = None
    """A pushed bundle, if none that is known here is meant."""
    layers: bool = False
    """Read every byte of every layer."""
    access: Access | None = None

    def open(self, reference: Reference, whole: bool = True) -> Source:
        return open_source(reference, self.store, self.access, whole)


def verify(question: Question) -> Verdict:
    """Compares the image with what it should be.

    Everything that is wrong with the image is in the verdict; errors are raised only where nothing can be
    said: the image is not there, or its place cannot be reached.
    """
    name = str(question.image)
    source = question.open(question.image)
    try:
        try:
            top = source.resolve()
            children = platforms(top) if top.is_index else []
        except DAMAGE as error:
            return Verdict(name, "", differences=(Difference("manifest", str(error)),))
        # An engine knows no manifests: there the config's digest is the image's ID.
        digest = top.config.digest if source.synthetic else top.digest
        if not top.is_index:
            checked = [_checked(question, source, top, None)]
            return Verdict(name, digest, tuple(checked), attached=_attached(question, top, checked))
        found = [_checked_child(question, source, child, platform) for platform, child in children]
        checked = [one for one, _ in found]
        differences, notes = _check_index(question, top, checked, [manifest for _, manifest in found])
        attached = _attached(question, top, checked)
        return Verdict(name, digest, tuple(checked), tuple(differences), attached, tuple(notes))
    finally:
        source.close()


def _attached(question: Question, top: Document, checked: Sequence[Checked]) -> tuple[Attached, ...]:
    if question.image.transport is not Transport.REGISTRY:
        return ()
    subjects = {one.digest: {"base": one.base_digest or "", "bundle": one.bundle} for one in checked}
    return tuple(check_attached(question.image.image_name, {top.digest: {}, **subjects}, question.access))


def _checked_child(
    question: Question, source: Source, descriptor: Descriptor, platform: Platform
) -> tuple[Checked, Document | None]:
    try:
        manifest = child_manifest(source, descriptor, str(question.image))
    except (*DAMAGE, NotFoundError) as error:
        found = Difference("manifest", str(error))
        return Checked(str(platform), descriptor.digest, differences=(found,)), None
    return _checked(question, source, manifest, platform), manifest


def _checked(question: Question, source: Source, manifest: Document, platform: Platform | None) -> Checked:
    """One image, whatever is wrong with it."""
    try:
        image = image_of(source, manifest)
        config = parse_object(image.config, "The image's config")
        platform = platform or Platform.read(config)
        claim, layers = Claim.read(image), manifest.layers
    except (*DAMAGE, NotFoundError) as error:
        found = Difference("config", str(error))
        return Checked(str(platform or ""), manifest.digest, differences=(found,))
    differences, base_layers = _compared(question, source, image, claim)
    size, damage = _check_layers(source, layers, config, question.layers)
    return Checked(
        platform=str(platform),
        digest=manifest.digest,
        base=claim.base,
        base_digest=claim.base_digest,
        bundle=claim.bundle,
        version=claim.version,
        components=claim.components,
        user=claim.options.user,
        keep_entrypoint=claim.options.keep_entrypoint,
        base_layers=base_layers,
        bundle_layers=len(layers) - base_layers,
        bytes_read=size,
        differences=(*differences, *damage),
    )


def _compared(question: Question, source: Source, image: Image, claim: Claim) -> tuple[list[Difference], int]:
    """What differs from the graft of the base and bundle that fit best, and the base's number of layers."""
    problems: list[Difference] = []
    best: tuple[list[Difference], int] | None = None
    with _noted("bundle", problems):
        bundles = _bundles(question, claim)
    with _noted("base", problems):
        for base in _bases(question, claim):
            for bundle in bundles if not problems else ():
                expected = claim.expected(base, bundle)
                found = between_images(expected, image, not source.synthetic)
                if best is None or len(found) < len(best[0]):
                    best = found, len(expected.manifest.entries("layers")) - len(bundle.layers)
    if problems or best is None:
        return problems, 0
    return best


@contextlib.contextmanager
def _noted(where: str, problems: list[Difference]) -> Iterator[None]:
    """What cannot be read, or is not what it should be, is a result; an unreachable registry is none."""
    try:
        yield
    except TransportError:
        raise
    except GraftboxError as error:
        problems.append(Difference(where, str(error)))


def _bundles(question: Question, claim: Claim) -> Sequence[Bundle]:
    if question.bundle is None:
        known = question.known(claim.bundle, claim.arch)
        if not known:
            merged = " --merge" if claim.merged else ""
            raise NotFoundError(
                f"The bundle {claim.bundle} (graftbox {claim.version}, {', '.join(claim.components)}, "
                f"linux/{claim.arch}) is not known here. Build it (graftbox bundle build{merged}), or say "
                "where it was pushed to: --bundle REF"
            )
        # A bundle's digest does not depend on the version that built it; the image's labels do.
        return sorted(known, key=lambda bundle: bundle.version != claim.version)
    source = question.open(question.bundle)
    try:
        bundle = pushed_bundle(source, claim.arch, str(question.bundle))
    finally:
        source.close()
    if bundle.digest != claim.bundle:
        raise VerificationError(
            f"The image says that it carries {claim.bundle}, and {question.bundle} is {bundle.digest}."
        )
    return [bundle]


def _bases(question: Question, claim: Claim) -> Iterator[Image]:
    """The base; as two images from an engine, which shows a config in two ways."""
    reference = question.base or recorded_base(claim)
    if reference.transport is Transport.SCRATCH:
        yield base_image(None, claim, "scratch")
        return
    engine = reference.transport.names_configs
    for whole in (False, True) if engine else (True,):
        source = question.open(reference, whole)
        try:
            yield base_image(source, claim, str(reference))
        finally:
            source.close()


def _check_layers(
    source: Source, layers: Sequence[Descriptor], config: dict[str, Any], read: bool
) -> tuple[int, list[Difference]]:
    """Whether each layer is there with its size; with ``read``, every byte of it."""
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    diff_ids = diff_ids if isinstance(diff_ids, list) else []
    size, problems = 0, list[Difference]()
    for number, descriptor in enumerate(layers):
        if descriptor.is_foreign:
            continue
        diff_id = str(diff_ids[number]) if number < len(diff_ids) else ""
        with _noted(f"layer {number + 1} ({descriptor.digest})", problems):
            blob = source.blob(descriptor, diff_id)
            if read:
                size += _read(blob)
            elif isinstance(source, Sized) and (held := source.size(descriptor)) != descriptor.size:
                raise VerificationError(
                    f"{held} bytes are stored, and the manifest says {descriptor.size}"
                    if held is not None
                    else "is not stored there"
                )
    return size, problems


def _read(blob: Blob) -> int:
    """Reads a whole layer, checks both its digests, and returns its size; holds a few MB at a time."""
    sha = hashlib.sha256()
    with damage_in_words(blob):
        for chunk in decompressed(blob.open()):
            sha.update(chunk)
    if (diff_id := f"sha256:{sha.hexdigest()}") != blob.diff_id:
        raise VerificationError(f"it unpacks to {diff_id}, and the config says {blob.diff_id}")
    return blob.descriptor.size


def _check_index(
    question: Question, index: Document, checked: Sequence[Checked], manifests: Sequence[Document | None]
) -> tuple[list[Difference], list[str]]:
    """Compares the index with that of the base, if the image says which that was."""
    if not checked:
        return [Difference("index", "it holds no image")], []
    annotations = index.json.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    digest, name = annotations.get(BASE_DIGEST), str(annotations.get(BASE_NAME, checked[0].base))
    if question.base is None and not digest:
        return [], ["The index does not record its base (Docker's cannot): only its images were compared."]
    options = Options(name, digest, oci_types=index.media_type == OCI_INDEX)
    problems: list[Difference] = []
    with _noted("index", problems):
        claim = Claim("", name, digest, checked[0].bundle, "", (), options)
        source = question.open(question.base or recorded_base(claim))
        try:
            base = source.resolve()
        finally:
            source.close()
        if digest and base.digest != digest:
            raise VerificationError(f"It was made of {digest}, and its base is {base.digest} there.")
        children = {
            one.base_digest: manifest
            for one, manifest in zip(checked, manifests, strict=True)
            if one.base_digest and manifest
        }
        bundles = ",".join(dict.fromkeys(one.bundle for one in checked))
        problems += between_bytes(graft_index(base, children, bundles, options).data, index.data, "index")
    return problems, []

"""What is attached to runtime images: provenance (in-toto, SLSA 1) and the bundle's SBOM (CycloneDX).

Neither holds a time, a machine or a user: the same graft has the same provenance, byte for byte.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graftbox import __version__
from graftbox.errors import FormatError, GraftboxError, NotFoundError, TransportError, UsageError
from graftbox.image.claim import Claim
from graftbox.image.connection import Registries
from graftbox.image.graft import Bundle
from graftbox.image.manifest import Document, parse_object, serialise
from graftbox.image.platforms import image_of, platforms
from graftbox.image.reference import ImageName, Reference, Transport
from graftbox.image.referrers import Attachment, Referrer, Referrers, fallback_tag
from graftbox.image.registry import RegistrySource
from graftbox.image.transports import Access

IN_TOTO = "application/vnd.in-toto+json"
CYCLONEDX = "application/vnd.cyclonedx+json"
OURS = frozenset({IN_TOTO, CYCLONEDX})
"""The types that are read and judged."""
STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:graftbox:graft:1"
PREDICATE = "in-toto.io/predicate-type"
"""The annotation by which other tools find statements of one kind."""
BUNDLE_PROPERTY = "graftbox:bundle"
"""The SBOM's property that holds the bundle's digest."""

Sbom = Callable[[Bundle], bytes]
"""The SBOM of a bundle, as CycloneDX JSON; the same bundle has the same bytes."""


@dataclass(frozen=True)
class Attached:
    """One artifact of an image; ``problem`` is empty if it is right, or of a kind that we do not read."""

    subject: str
    digest: str
    artifact_type: str
    checked: bool
    problem: str = ""


def provenance(name: str, subject: str, claims: Mapping[str, Claim], lock: Mapping[str, str]) -> bytes:
    """The statement that ``subject`` (a digest) was made by graft. Claims and locks by architecture."""
    first = next(iter(claims.values()))
    options = {"keep_entrypoint": first.options.keep_entrypoint, "user": first.options.user}
    inputs: dict[tuple[str, str], dict[str, Any]] = {}
    for arch, claim in claims.items():
        if claim.base_digest:
            inputs["base", claim.base_digest] = {"uri": claim.base}
        inputs["bundle", claim.bundle] = {"annotations": {"architecture": arch, "version": claim.version}}
        if lock.get(arch):
            inputs["lock", lock[arch]] = {}
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": _digest(subject)}],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "base": first.base,
                    "components": list(first.components),
                    "options": options,
                    "platforms": [f"linux/{arch}" for arch in claims],
                },
                "resolvedDependencies": [
                    {"name": kind, "digest": _digest(digest), **more}
                    for (kind, digest), more in inputs.items()
                ],
            },
            "runDetails": {"builder": {"id": "urn:graftbox", "version": {"graftbox": __version__}}},
        },
    }
    return serialise(statement)


def _digest(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


def attest(
    image: Reference, digest: str, bundles: Mapping[str, Bundle], sbom: Sbom, access: Access | None = None
) -> list[str]:
    """Attaches provenance to an image and each of its platforms, and to each the SBOM of its bundle.

    The image is read again from its registry by ``digest``. Returns the artifacts' digests.
    """
    if image.transport is not Transport.REGISTRY:
        raise UsageError(f"{image} is not in a registry; only there can something be attached to an image.")
    name = ImageName(image.image_name.host, image.image_name.repository, None, digest)
    where, made = f"{name.host}/{name.repository}", list[str]()
    with shared(access) as registries:
        referrers = Referrers(registries, name, writing=True)
        source = RegistrySource(name, registries=registries)
        top = source.resolve()
        children = [source.manifest(one) for _, one in platforms(top)] if top.is_index else [top]
        claims = {(claim := Claim.read(image_of(source, child))).arch: claim for child in children}
        for child, (arch, claim) in zip(children, claims.items(), strict=True):
            bundle = bundles.get(arch)
            if bundle is None or bundle.digest != claim.bundle:
                raise NotFoundError(f"{where} carries the bundle {claim.bundle}, which was not grafted here.")
            made.append(_attach(referrers, where, child, {arch: claim}, bundles))
            made.append(referrers.attach(child.descriptor, Attachment(CYCLONEDX, sbom(bundle))))
        if top.is_index:
            made.append(_attach(referrers, where, top, claims, bundles))
        referrers.settle()
    return made


def is_signed(image: Reference, digest: str, access: Access | None = None) -> bool:
    """Whether something that is not ours is attached to the image, or cosign's tag for it is there."""
    name = ImageName(image.image_name.host, image.image_name.repository, None, digest)
    with shared(access) as registries:
        found = Referrers(registries, name).find(digest)
        if any(one.artifact_type not in OURS for one in found):
            return True
        tag = f"{fallback_tag(digest)}.sig"
        with contextlib.suppress(NotFoundError):
            RegistrySource(ImageName(name.host, name.repository, tag, None), registries=registries).head()
            return True
    return False


def _attach(
    referrers: Referrers,
    where: str,
    manifest: Document,
    claims: Mapping[str, Claim],
    bundles: Mapping[str, Bundle],
) -> str:
    locks = {arch: bundles[arch].lock for arch in claims}
    statement = provenance(where, manifest.digest, claims, locks)
    return referrers.attach(manifest.descriptor, Attachment(IN_TOTO, statement, {PREDICATE: PROVENANCE}))


@contextlib.contextmanager
def shared(access: Access | None) -> Iterator[Registries]:
    """The registries of ``access``, or some that live as long as the block."""
    access = access or Access()
    if access.registries is not None:
        yield access.registries
        return
    with access.shared(parallel=4) as registries:
        yield registries


def check(
    image: ImageName, subjects: Mapping[str, Mapping[str, str]], access: Access | None
) -> list[Attached]:
    """Everything that is attached to these manifests, by digest.

    Each has the digests that its provenance must name: ``base`` and ``bundle``.
    """
    found = []
    with shared(access) as registries:
        referrers = Referrers(registries, image)
        for digest, inputs in subjects.items():
            for referrer in referrers.find(digest):
                kind, problem = _read(referrers, referrer, digest, inputs)
                found.append(Attached(digest, referrer.descriptor.digest, kind, kind in OURS, problem))
    return found


def _read(
    referrers: Referrers, referrer: Referrer, subject: str, inputs: Mapping[str, str]
) -> tuple[str, str]:
    """The artifact's type, which it says itself whatever the list says, and what is wrong with it.

    Of others' artifacts no more than that is read: they may be of any size and form.
    """
    kind = referrer.artifact_type
    try:
        manifest = referrers.manifest(referrer)
        kind = str(manifest.json.get("artifactType") or kind)
        if kind not in OURS:
            return kind, ""
        return kind, _problem(kind, manifest, referrers.file(manifest), subject, inputs)
    except TransportError:
        raise
    except GraftboxError as error:
        return kind, str(error) if kind in OURS else ""
    except (KeyError, TypeError, AttributeError) as error:
        return kind, f"it is malformed ({type(error).__name__}: {error})"


def _problem(kind: str, manifest: Document, data: bytes, subject: str, inputs: Mapping[str, str]) -> str:
    named = manifest.json.get("subject")
    if not isinstance(named, dict) or named.get("digest") != subject:
        return "it is listed here and speaks of another image"
    if kind == IN_TOTO:
        return _statement_problem(parse_object(data, "The statement"), subject, inputs)
    return _sbom_problem(parse_object(data, "The SBOM"), inputs)


def _statement_problem(statement: dict[str, Any], subject: str, inputs: Mapping[str, str]) -> str:
    if _digest(subject) not in [one["digest"] for one in statement["subject"]]:
        return "its statement is about another image"
    if statement["predicateType"] != PROVENANCE:
        return ""
    definition = statement["predicate"]["buildDefinition"]
    if definition["buildType"] != BUILD_TYPE:
        return ""
    named = definition["resolvedDependencies"]
    for kind, digest in inputs.items():
        if digest and not any(one["name"] == kind and one["digest"] == _digest(digest) for one in named):
            return f"it says that the image was made of another {kind} than {digest}"
    return ""


def _sbom_problem(sbom: dict[str, Any], inputs: Mapping[str, str]) -> str:
    if sbom.get("bomFormat") != "CycloneDX":
        raise FormatError("It is no CycloneDX document.")
    properties = sbom.get("metadata", {}).get("component", {}).get("properties", [])
    described = {one["value"] for one in properties if one.get("name") == BUNDLE_PROPERTY}
    if described and inputs.get("bundle") and described != {inputs["bundle"]}:
        return f"it lists the packages of another bundle than {inputs['bundle']}"
    return ""

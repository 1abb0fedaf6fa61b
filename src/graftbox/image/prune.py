"""Finds and removes the runtime images of a repository that were made of other bundles than today's."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from graftbox.errors import FormatError, GraftboxError, NotFoundError, UnsupportedError
from graftbox.image.blob import read
from graftbox.image.connection import Connection, Registries
from graftbox.image.graft import BUNDLE, COMPONENTS, FLAVOR, LAYERS, VERSION, Bundle, is_merged
from graftbox.image.manifest import Document, parse_object
from graftbox.image.platforms import platforms
from graftbox.image.reference import ImageName
from graftbox.image.referrers import Referrers, fallback_tag
from graftbox.image.registry import RegistrySource
from graftbox.image.tags import PREFIX

PAGE = 1000
"""Tags asked for at a time; registries may give fewer."""

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
"""The annotation of every eStargz layer."""

_NEXT = re.compile(r'<[^>]*\?([^>]*)>\s*;\s*rel="?next')

Current = Callable[[Sequence[str], str, str, str, bool], str | None]
"""(components, architecture, form of layers, flavour, whether they are merged) -> the digest of today's such
bundle, if it is built here."""
ATTACHED = ("", ".sig", ".att", ".sbom")
"""How the fallback tag of what is attached to an image goes on: as the spec says, and as cosign writes."""


@dataclass(frozen=True)
class Found:
    """One image of the repository, with all its tags; ``why`` it is kept or goes."""

    digest: str
    tags: tuple[str, ...]
    stale: bool
    why: str
    subjects: tuple[str, ...] = ()
    """It and its platforms, by digest: what something may be attached to."""


@dataclass(frozen=True)
class _Facts:
    """The labels of one platform of a runtime image."""

    version: str
    bundle: str
    components: tuple[str, ...]
    arch: str
    form: str
    digest: str
    flavor: str
    merged: bool


def tags(registries: Registries, name: ImageName) -> Iterator[str]:
    """All tags of a repository (distribution-spec, "Listing Tags"), page by page."""
    connection = Connection(registries.host(name.host), name.repository, "pull")
    query = {"n": str(PAGE)}
    while True:
        response = connection.request("GET", f"{connection.base}/tags/list?{urlencode(query)}")
        if response.status_code == 404:
            raise NotFoundError(f"{name.host} has no repository {name.repository}.")
        connection.check(response, f"list the tags of {name}")
        page = response.json().get("tags") or []
        yield from (str(tag) for tag in page)
        following = _NEXT.search(response.headers.get("Link", ""))
        if not page or not following:
            return
        query = dict(parse_qsl(following[1]))


def find(registries: Registries, name: ImageName, version: str, current: Current) -> Iterator[Found]:
    """Every image that has a tag of ours, judged by its labels; the others are nobody's business here.

    An image goes if its release or its bundle is not today's. It stays if that cannot be told, or if a tag
    that is not ours stands for it too.
    """
    by_digest: dict[str, list[str]] = {}

    def digest_of(tag: str) -> str:
        return RegistrySource(ImageName(name.host, name.repository, tag, None), registries=registries).head()

    names = list(tags(registries, name))
    with ThreadPoolExecutor(registries.settings.parallel) as pool:
        for tag, digest in zip(names, pool.map(digest_of, names), strict=True):
            by_digest.setdefault(digest, []).append(tag)
    for digest, names in by_digest.items():
        if not any(tag.startswith(PREFIX) for tag in names):
            continue
        pinned = ImageName(name.host, name.repository, None, digest)
        subjects = [digest]
        try:
            facts = _facts(RegistrySource(pinned, registries=registries))
            subjects += [one.digest for one in facts if one.digest != digest]
            stale, why = _judged(facts, version, current)
        except GraftboxError as error:
            stale, why = False, f"it cannot be read: {error}"
        if stale and (others := [tag for tag in names if not tag.startswith(PREFIX)]):
            stale, why = False, f"{why}, but it is also tagged {', '.join(others)}"
        yield Found(digest, tuple(names), stale, why, tuple(subjects))


def _facts(source: RegistrySource) -> list[_Facts]:
    """Each platform's labels."""
    top = source.resolve()
    children = [source.manifest(item) for _, item in platforms(top)] if top.is_index else [top]
    return [_labels(source, child) for child in children]


def _labels(source: RegistrySource, manifest: Document) -> _Facts:
    config = parse_object(read(source.blob(manifest.config)), "The image's config")
    process = config.get("config")
    labels = process.get("Labels") if isinstance(process, dict) else None
    if not isinstance(labels, dict) or not isinstance(labels.get(BUNDLE), str):
        raise FormatError("it has no labels of graftbox")
    components = tuple(str(labels.get(COMPONENTS, "")).split(","))
    arch = str(config.get("architecture"))
    return _Facts(
        str(labels.get(VERSION)),
        labels[BUNDLE],
        components,
        arch,
        _form(manifest),
        manifest.digest,
        str(labels.get(FLAVOR, Bundle.flavor)),
        is_merged(components, str(labels.get(LAYERS, ""))),
    )


def _form(manifest: Document) -> str:
    """The form of the bundle's layers, which are the last, as ``--compression`` calls it."""
    last = manifest.entries("layers")[-1]
    if str(last.get("mediaType")).endswith("+zstd"):
        return "zstd"
    annotations = last.get("annotations")
    return "estargz" if isinstance(annotations, dict) and TOC_DIGEST in annotations else "gzip"


def _judged(found: list[_Facts], version: str, current: Current) -> tuple[bool, str]:
    for facts in found:
        if facts.version != version:
            return True, f"made by graftbox {facts.version}"
        today = current(facts.components, facts.arch, facts.form, facts.flavor, facts.merged)
        if not today:
            merged = "merged " if facts.merged else ""
            names = f"{', '.join(facts.components)} for {facts.arch}, with {merged}{facts.form} layers,"
            return False, f"today's bundle of {names} is not built here, so nobody can tell"
        if facts.bundle != today:
            return True, f"its bundle is {facts.bundle[7:19]}, today's is {today[7:19]}"
    return False, "up to date"


def remove(registries: Registries, name: ImageName, found: Found) -> None:
    """Deletes the manifest, and with it all its tags (distribution-spec, "Deleting Manifests").

    Raises `UnsupportedError` if the registry does not allow it.
    """
    _delete(registries, name, found.digest)


def remove_attached(registries: Registries, name: ImageName, subjects: Iterable[str]) -> int:
    """Deletes what is attached to images that are gone, and the tags that list it; returns how many."""
    gone = 0
    for subject in subjects:
        listed = [one.descriptor.digest for one in Referrers(registries, name).find(subject)]
        for ending in ATTACHED:
            tagged = ImageName(name.host, name.repository, fallback_tag(subject) + ending, None)
            with contextlib.suppress(NotFoundError):
                listed.append(RegistrySource(tagged, registries=registries).head())
        for digest in listed:
            _delete(registries, name, digest)
        gone += len(listed)
    return gone


def _delete(registries: Registries, name: ImageName, digest: str) -> None:
    host = registries.host(name.host)
    connection = Connection(host, name.repository, "delete,pull,push")
    response = connection.request("DELETE", f"{connection.base}/manifests/{digest}")
    if response.status_code in {400, 405}:
        raise UnsupportedError(
            f"{name.host} does not allow deleting. In docker-registry it is switched on by "
            "storage: {delete: {enabled: true}}, or REGISTRY_STORAGE_DELETE_ENABLED=true; elsewhere, use its "
            "own clean-up rules."
        )
    if response.status_code != 404:
        connection.check(response, f"delete {digest} of {name}")


def line(found: Found) -> str:
    """One JSON object for machines."""
    facts = {"digest": found.digest, "tags": found.tags, "stale": found.stale, "why": found.why}
    return json.dumps(facts)

"""Artifacts attached to an image in its registry (distribution-spec 1.1, "Listing Referrers").

A registry without the referrers API keeps the list of them as an index under the tag ``sha256-<hex>``,
which the client writes itself (the spec's "Referrers Tag Schema").
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftbox.errors import FormatError, NotFoundError, TransportError, VerificationError
from graftbox.image.blob import Blob, read
from graftbox.image.connection import Connection, Registries
from graftbox.image.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Document, parse_object, serialise
from graftbox.image.reference import ImageName
from graftbox.image.registry import RegistrySource
from graftbox.image.upload import upload
from graftbox.store import digest_of

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
"""The config of an artifact that needs none (image-spec, "Guidance for an Empty Descriptor")."""
TRIES = 4
"""Another client may write the list at the same time."""

_WRITING = [threading.Lock() for _ in range(64)]
"""Held while a list is read and written; which one is decided by the list."""
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next')


@dataclass(frozen=True)
class Attachment:
    """A file to attach; ``media_type`` is also the artifact's type."""

    media_type: str
    data: bytes
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Referrer:
    """An artifact as the list names it."""

    descriptor: Descriptor
    artifact_type: str


def artifact(subject: Descriptor, attachment: Attachment) -> Document:
    """The manifest that ties a file to an image; the same input gives the same bytes."""
    body: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": attachment.media_type,
        "config": _json(Descriptor(EMPTY_TYPE, digest_of(EMPTY), len(EMPTY))),
        "layers": [_json(Document(attachment.data, attachment.media_type).descriptor)],
        "subject": _json(subject),
    }
    if attachment.annotations:
        body["annotations"] = dict(attachment.annotations)
    return Document(serialise(body), OCI_MANIFEST)


class Referrers:
    """The artifacts of the images of one repository."""

    def __init__(self, registries: Registries, name: ImageName, writing: bool = False) -> None:
        self.name, self._registries = name, registries
        host = registries.host(name.host)
        self._connection = Connection(host, name.repository, "pull,push" if writing else "pull")
        self._base = self._connection.base

    def find(self, subject: str) -> list[Referrer]:
        """What is attached to the manifest with this digest."""
        entries = self._listed(subject)
        if entries is None:
            entries = self._index(subject).get("manifests") or []
        found = {}
        for entry in entries:
            if isinstance(entry, dict):
                descriptor = Descriptor.read(entry, f"The list of what is attached to {subject}")
                found[descriptor.digest] = Referrer(descriptor, str(entry.get("artifactType") or ""))
        return list(found.values())

    def _listed(self, subject: str) -> list[Any] | None:
        """From the referrers API; None where there is none."""
        url, entries = f"{self._base}/referrers/{subject}", list[Any]()
        while True:
            response = self._connection.request("GET", url)
            if response.status_code in {400, 404, 405, 501}:
                return None
            self._connection.check(response, f"list what is attached to {self.name}")
            if OCI_INDEX not in response.headers.get("Content-Type", ""):
                return None  # a registry, or a proxy, that answers anything with a page of its own
            page = parse_object(response.content, f"The list of what is attached to {subject}")
            entries += page.get("manifests") or []
            following = _NEXT.search(response.headers.get("Link", ""))
            if not following or len(entries) > 10_000:
                return entries
            url = following[1]

    def _index(self, subject: str) -> dict[str, Any]:
        """The list under the fallback tag; an empty one if nobody has written it yet."""
        tagged = dataclasses.replace(self.name, tag=fallback_tag(subject), digest=None)
        try:
            return RegistrySource(tagged, registries=self._registries).resolve().json
        except NotFoundError:
            return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}

    def read(self, referrer: Referrer) -> tuple[Document, bytes]:
        """The artifact's manifest and its first file, both verified."""
        digest = referrer.descriptor.digest
        response = self._connection.request("GET", f"{self._base}/manifests/{digest}", headers=_ACCEPT)
        if response.status_code == 404:
            raise NotFoundError(f"The artifact {digest} is listed but not there.")
        self._connection.check(response, f"read {digest} of {self.name}")
        if (got := digest_of(response.content)) != digest:
            raise VerificationError(f"{self.name.host} answered with {got} where {digest} was asked for.")
        manifest = Document(response.content, OCI_MANIFEST)
        if not manifest.layers:
            raise FormatError(f"The artifact {digest} holds no file.")
        source = RegistrySource(self.name, registries=self._registries)
        return manifest, read(source.blob(manifest.layers[0]))

    def attach(self, subject: Descriptor, attachment: Attachment) -> str:
        """Stores the artifact and returns its digest; the same one again changes nothing."""
        manifest = artifact(subject, attachment)
        if any(one.descriptor.digest == manifest.digest for one in self.find(subject.digest)):
            return manifest.digest
        for data, media_type in ((EMPTY, EMPTY_TYPE), (attachment.data, attachment.media_type)):
            url = f"{self._base}/blobs/{digest_of(data)}"
            if self._connection.request("HEAD", url).status_code != 200:
                upload(self._connection, Blob.of(data, media_type))
        response = self._put(manifest.digest, manifest)
        if not response.headers.get("OCI-Subject"):
            self._add(subject.digest, {**_json(manifest.descriptor), **_facts(attachment)})
        return manifest.digest

    def _put(self, selector: str, manifest: Document) -> Any:
        response = self._connection.request(
            "PUT",
            f"{self._base}/manifests/{selector}",
            headers={"Content-Type": manifest.media_type},
            content=manifest.data,
        )
        self._connection.check(response, f"attach something to an image of {self.name}")
        return response

    def _add(self, subject: str, entry: dict[str, Any]) -> None:
        """Writes the list anew, and reads it again until the entry is in it."""
        # Other processes may come in between, which is why it is read again; our own threads need not.
        with _WRITING[hash((self.name.host, self.name.repository, subject)) % len(_WRITING)]:
            self._write(subject, entry)

    def _write(self, subject: str, entry: dict[str, Any]) -> None:
        for _ in range(TRIES):
            index = self._index(subject)
            entries = index.get("manifests") or []
            if any(isinstance(one, dict) and one.get("digest") == entry["digest"] for one in entries):
                return
            body = {**index, "manifests": [*entries, entry]}
            self._put(fallback_tag(subject), Document(serialise(body), OCI_INDEX))
        if not any(one.descriptor.digest == entry["digest"] for one in self.find(subject)):
            raise TransportError(
                f"Others keep writing the tag {fallback_tag(subject)} of {self.name}; run the command again."
            )


def fallback_tag(digest: str) -> str:
    """The tag under which a registry without the referrers API lists what is attached to an image."""
    return digest.replace(":", "-")


def _json(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _facts(attachment: Attachment) -> dict[str, Any]:
    facts: dict[str, Any] = {"artifactType": attachment.media_type}
    return facts | ({"annotations": dict(attachment.annotations)} if attachment.annotations else {})


_ACCEPT = {"Accept": OCI_MANIFEST}

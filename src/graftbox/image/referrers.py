"""Artifacts attached to an image in its registry (distribution-spec 1.1, "Listing Referrers").

A registry without the referrers API keeps the list of them as an index under the tag ``sha256-<hex>``,
which the client writes itself (the spec's "Referrers Tag Schema"). Two clients that do so at the same moment
can overwrite one another. Where the registry heeds ``If-Match`` (RFC 9110 section 13.1.1), it prevents that;
elsewhere each client looks again once the other must have written, and adds anew what is missing.
"""

from __future__ import annotations

import dataclasses
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftbox.errors import FormatError, NotFoundError, TransportError, VerificationError
from graftbox.image.blob import Blob, read
from graftbox.image.connection import Connection, Registries
from graftbox.image.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Document, parse_object, serialise
from graftbox.image.pool import Response
from graftbox.image.reference import ImageName
from graftbox.image.registry import RegistrySource
from graftbox.image.upload import upload
from graftbox.store import digest_of

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
"""The config of an artifact that needs none (image-spec, "Guidance for an Empty Descriptor")."""
PAGES = 100
"""Of a list that are read at most."""
TRIES = 8
"""Others may write the list at the same time, so often at most."""
SETTLING = 0.25
"""Seconds after which another client that read the list before us has most likely written it."""
LONGEST_SETTLING = 5.0

_WRITING = [threading.Lock() for _ in range(64)]
"""Held while a list is read and written; which one is decided by the list."""
REFUSED_CONDITION = frozenset({412, 501})
"""Answers to a list that somebody else has changed, and of registries that take no conditions at all."""

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


@dataclass(frozen=True)
class _List:
    """What is under a fallback tag; ``condition`` is the header field under which it may be replaced."""

    body: dict[str, Any]
    condition: dict[str, str]

    @property
    def entries(self) -> list[Any]:
        found = self.body.get("manifests")
        return found if isinstance(found, list) else []

    def lacks(self, entries: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of ``entries``, by digest, that are not in it."""
        held = {one.get("digest") for one in self.entries if isinstance(one, dict)}
        return [entry for digest, entry in entries.items() if digest not in held]


class Referrers:
    """The artifacts of the images of one repository."""

    def __init__(self, registries: Registries, name: ImageName, writing: bool = False) -> None:
        self.name, self._registries = name, registries
        host = registries.host(name.host)
        self._connection = Connection(host, name.repository, "pull,push" if writing else "pull")
        self._base = self._connection.base
        self._listed_by_us: dict[str, dict[str, dict[str, Any]]] = {}
        self._slowest = 0.0

    def find(self, subject: str) -> list[Referrer]:
        """What is attached to the manifest with this digest."""
        entries = self._listed(subject)
        if entries is None:
            entries = self._index(subject).entries
        found = {}
        for entry in entries:
            if isinstance(entry, dict):
                descriptor = Descriptor.read(entry, f"The list of what is attached to {subject}")
                found[descriptor.digest] = Referrer(descriptor, str(entry.get("artifactType") or ""))
        return list(found.values())

    def _listed(self, subject: str) -> list[Any] | None:
        """From the referrers API; None where there is none."""
        url, entries = f"{self._base}/referrers/{subject}", list[Any]()
        for _ in range(PAGES):
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
            # At this registry, whatever host it names.
            url = f"{self._base}/referrers/{subject}?{following[1].partition('?')[2]}"
        return entries

    def _index(self, subject: str) -> _List:
        """The list under the fallback tag; an empty one if nobody has written it yet."""
        tag = fallback_tag(subject)
        for _ in range(2):
            response = self._connection.request("GET", f"{self._base}/manifests/{tag}", headers=_ACCEPT_LIST)
            if response.status_code == 404:
                empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
                return _List(empty, {"If-None-Match": "*"})
            self._connection.check(response, f"read {tag} of {self.name}")
            stated, got = response.headers.get("Docker-Content-Digest", ""), digest_of(response.content)
            if not stated.startswith("sha256:") or stated == got:
                break
        else:
            raise VerificationError(f"{self.name.host} answered with {got} where {stated} was expected.")
        etag = response.headers.get("ETag", "")
        # A weak tag never matches where a strong one is compared (RFC 9110 section 8.8.3.2).
        condition = {"If-Match": etag} if etag and not etag.startswith("W/") else {}
        return _List(parse_object(response.content, f"The list {tag} of {self.name}"), condition)

    def manifest(self, referrer: Referrer) -> Document:
        """The artifact's manifest, verified."""
        digest = referrer.descriptor.digest
        response = self._connection.request("GET", f"{self._base}/manifests/{digest}", headers=_ACCEPT)
        if response.status_code == 404:
            raise NotFoundError(f"The artifact {digest} is listed but not there.")
        self._connection.check(response, f"read {digest} of {self.name}")
        if (got := digest_of(response.content)) != digest:
            raise VerificationError(f"{self.name.host} answered with {got} where {digest} was asked for.")
        return Document(response.content, OCI_MANIFEST)

    def file(self, manifest: Document) -> bytes:
        """The first file of the artifact with this manifest, verified."""
        if not manifest.layers:
            raise FormatError(f"The artifact {manifest.digest} holds no file.")
        return read(RegistrySource(self.name, registries=self._registries).blob(manifest.layers[0]))

    def attach(self, subject: Descriptor, attachment: Attachment) -> str:
        """Stores the artifact and returns its digest; the same one again changes nothing.

        Call `settle` after the last one.
        """
        manifest = artifact(subject, attachment)
        if any(one.descriptor.digest == manifest.digest for one in self.find(subject.digest)):
            return manifest.digest
        response = self._stored(manifest, attachment)
        if not response.headers.get("OCI-Subject"):
            self._add(subject.digest, {**_json(manifest.descriptor), **_facts(attachment)})
        return manifest.digest

    def _stored(self, manifest: Document, attachment: Attachment) -> Response:
        """Sends the artifact's files, and then its manifest; the answer to that.

        A registry may take back what it has just said of a blob while another client sends it too.
        """
        attempt = 0
        while True:
            attempt += 1
            for data, media_type in ((EMPTY, EMPTY_TYPE), (attachment.data, attachment.media_type)):
                self._bring(Blob.of(data, media_type), surely=attempt > 1)
            response = self._sent(manifest.digest, manifest)
            if response.is_success or not _lacks_blobs(response) or not self._connection.host.pause(attempt):
                self._check(response)
                return response

    def _bring(self, blob: Blob, surely: bool) -> None:
        with self._registries.places(self.name.host).only_one(blob.digest, self.name.repository):
            url = f"{self._base}/blobs/{blob.digest}"
            if surely or self._connection.request("HEAD", url).status_code != 200:
                upload(self._connection, blob)

    def _sent(
        self, selector: str, manifest: Document, condition: Mapping[str, str] | None = None
    ) -> Response:
        return self._connection.request(
            "PUT",
            f"{self._base}/manifests/{selector}",
            headers={"Content-Type": manifest.media_type, **(condition or {})},
            content=manifest.data,
        )

    def _check(self, response: Response) -> None:
        self._connection.check(response, f"attach something to an image of {self.name}")

    def settle(self) -> None:
        """Sees to it that what was attached stays listed, whoever else wrote the same lists meanwhile.

        To be called once after the last `attach`. It waits a moment, unless the registry has the referrers
        API; raises `TransportError` if others keep writing.
        """
        waiting = list(self._listed_by_us)
        for _ in range(TRIES):
            if not waiting:
                break
            # Who read the list before us takes about as long to write it as we do.
            pause = min(max(SETTLING, 4 * self._slowest), LONGEST_SETTLING)
            time.sleep(pause * (1 + random.random() / 2))
            waiting = [subject for subject in waiting if self._index(subject).lacks(self._ours(subject))]
            for subject in waiting:
                self._write(subject)
        if waiting:
            raise self._contested(waiting[0])
        self._listed_by_us.clear()

    def _ours(self, subject: str) -> dict[str, dict[str, Any]]:
        return self._listed_by_us.setdefault(subject, {})

    def _add(self, subject: str, entry: dict[str, Any]) -> None:
        self._ours(subject)[entry["digest"]] = entry
        self._write(subject)

    def _write(self, subject: str) -> None:
        """Adds our entries to the list, and reads it again until they are in it."""
        tag, condition_counts, refused = fallback_tag(subject), True, ""
        # Other processes may come in between, which is why it is read again; our own threads need not.
        with _WRITING[hash((self.name.host, self.name.repository, subject)) % len(_WRITING)]:
            for _ in range(TRIES):
                start = time.monotonic()
                index = self._index(subject)
                missing = index.lacks(self._ours(subject))
                if not missing:
                    return
                body = {**index.body, "manifests": [*index.entries, *missing]}
                document = Document(serialise(body), OCI_INDEX)
                condition = index.condition if condition_counts else {}
                answer = self._sent(tag, document, condition)
                if not condition or answer.status_code not in REFUSED_CONDITION:
                    self._check(answer)
                self._slowest = max(self._slowest, time.monotonic() - start)
                if not answer.is_success:
                    # Refused twice though nobody has changed it: it means something else by the condition.
                    condition_counts = answer.status_code == 412 and refused != str(index)
                    refused = str(index)
                    time.sleep(random.random() * SETTLING / 5)
            if self._index(subject).lacks(self._ours(subject)):
                raise self._contested(subject)

    def _contested(self, subject: str) -> TransportError:
        return TransportError(
            f"Others keep writing the tag {fallback_tag(subject)} of {self.name}; run the command again."
        )


def fallback_tag(digest: str) -> str:
    """The tag under which a registry without the referrers API lists what is attached to an image."""
    return digest.replace(":", "-")


def _lacks_blobs(response: Response) -> bool:
    return response.status_code in {400, 404, 422} and "BLOB_UNKNOWN" in response.text


def _json(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _facts(attachment: Attachment) -> dict[str, Any]:
    facts: dict[str, Any] = {"artifactType": attachment.media_type}
    return facts | ({"annotations": dict(attachment.annotations)} if attachment.annotations else {})


_ACCEPT = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}, */*;q=0.1"}
_ACCEPT_LIST = {"Accept": OCI_INDEX}

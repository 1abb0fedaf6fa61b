"""Images are written to registries (distribution-spec 1.1, "Push") without their layers being read.

A graft sends a config and a manifest; layers are sent only if the registry holds them nowhere. What the
registry lacks is learnt from its answer to the manifest, so nothing is asked blob by blob.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.errors import NotFoundError, VerificationError
from graftbox.image.blob import Blob
from graftbox.image.manifest import Document
from graftbox.image.reference import ImageName
from graftbox.image.registry import ACCEPT, DIGEST, RegistrySource, RepositoryAccess
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.image.connection import Registries
    from graftbox.image.pool import Response

MANY_UNKNOWN = 2
"""Up to so many layers are mounted at once; of more, the registry is first asked which ones it lacks."""
MOUNT_TRIES = 3
"""Some registries answer every mount with a server error; an upload is the better use of patience."""
NO_HEAD = frozenset({405, 501})
SPOILT = ("MANIFEST_INVALID", "DIGEST_INVALID")
"""Errors of a manifest that was damaged on the way: ours are valid."""


class RegistryTarget:
    """One repository that images are written to, under one or more tags.

    With ``fresh``, the caller knows already that the image is not there.
    """

    parallel = 4

    def __init__(
        self,
        name: ImageName,
        tags: Sequence[str],
        store: Store,
        insecure: frozenset[str] = frozenset(),
        registries: Registries | None = None,
        authority: Path | None = None,
        fresh: bool = False,
    ) -> None:
        self.name, self.tags = name, tuple(tags)
        self._store, self._fresh = store, fresh
        self._access = RepositoryAccess(name, "pull,push", insecure, registries, authority)
        self._connection = self._access.connection
        self._known = self._access.registries.places(name.host)
        self._known.load(store)
        self._top: Document | None = None
        self._offered: set[str] = set()
        self._brought: set[str] = set()
        self._base = self._connection.base

    def head(self, selector: str) -> str | None:
        """The digest of what is stored under a tag; None if nothing is.

        Some registries answer 401 or 403 for a repository that the first push will make; whether writing is
        allowed is told by writing.
        """
        response = self._connection.request("HEAD", f"{self._base}/manifests/{selector}", headers=ACCEPT)
        if response.status_code in {401, 403, 404}:
            return None
        name = dataclasses.replace(self.name, tag=selector, digest=None)
        if response.status_code not in NO_HEAD:
            self._connection.check(response, f"look for {name}")
        digest = response.headers.get("Docker-Content-Digest", "")
        if response.is_success and DIGEST.fullmatch(digest):
            return str(digest)
        try:
            return RegistrySource(name, registries=self._access.registries).resolve().digest
        except NotFoundError:
            return None

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        selector = (self.tags[0] if self.tags else manifest.digest) if top else manifest.digest
        if manifest.digest not in self._offered:
            self._offered.add(manifest.digest)
            if not self._fresh and self._has_manifest(selector, manifest.digest):
                self._top = manifest
                return []
            if config:
                # The config is nearly always new, and so are layers that were never met here.
                unknown = [blob for blob in blobs[1:] if self._is_unknown(blob)]
                few = len(unknown) <= MANY_UNKNOWN or len(unknown) == len(blobs) - 1
                return [blobs[0], *(unknown if few else ())]
        believed = {blob.digest for blob in blobs if self.name.repository in self._known.of(blob.digest)}
        response, missing = self._stored(manifest, selector, blobs)
        self._top = manifest
        if missing:
            # What has come to be known since then, another image has sent meanwhile.
            for digest in believed.intersection(blob.digest for blob in missing):
                self._known.forget(digest, self.name.repository)
            return missing
        self._connection.check(response, f"write the manifest of {self.name}")
        for blob in blobs:
            self._known.remember(blob, self.name.repository)
        return []

    def _stored(
        self, manifest: Document, selector: str, blobs: Sequence[Blob]
    ) -> tuple[Response, list[Blob]]:
        """The answer to the manifest, and the blobs that the registry lacks by it.

        A registry of several machines may see a blob a moment after it has taken it.
        """
        attempt = 0
        while True:
            attempt += 1
            response, missing = self._put_manifest(manifest, selector), list[Blob]()
            if response.status_code in {400, 404, 422} and blobs:
                missing = self._missing(response, blobs)
            taken = bool(missing) and all(blob.digest in self._brought for blob in missing)
            if not taken or not self._connection.host.pause(attempt, response):
                return response, missing

    def _put_manifest(self, manifest: Document, selector: str) -> Response:
        url, headers = f"{self._base}/manifests/{selector}", {"Content-Type": manifest.media_type}
        for _ in range(2):
            response = self._connection.request("PUT", url, headers=headers, content=manifest.data)
            stored = response.headers.get("Docker-Content-Digest") or manifest.digest
            spoilt = response.status_code == 400 and any(code in response.text for code in SPOILT)
            if not spoilt and (stored == manifest.digest or not response.is_success):
                return response
        if response.is_success:
            raise VerificationError(
                f"{self.name.host} stored {stored} where {manifest.digest} was sent for {self.name}; "
                "something between here and there changes manifests."
            )
        return response

    def _is_unknown(self, blob: Blob) -> bool:
        """Not known to be here, but somewhere else in this registry."""
        return self.name.repository not in self._known.of(blob.digest) and bool(self._places(blob))

    def _has_manifest(self, selector: str, digest: str) -> bool:
        url = f"{self._base}/manifests/{selector}"
        response = self._connection.request("HEAD", url, headers=ACCEPT)
        return response.status_code == 200 and response.headers.get("Docker-Content-Digest") == digest

    def _missing(self, response: Response, blobs: Sequence[Blob]) -> list[Blob]:
        """What the registry says it lacks; asked blob by blob where it does not say."""
        named = set()
        try:
            errors = response.json()["errors"]
            named = {d for error in errors for d in DIGEST.findall(json.dumps(error.get("detail")))}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return [blob for blob in blobs if blob.digest in named] or [
            blob for blob in blobs if not self._has(blob.digest)
        ]

    def _has(self, digest: str) -> bool:
        return self._connection.request("HEAD", f"{self._base}/blobs/{digest}").status_code == 200

    def put(self, blob: Blob) -> int:
        self._brought.add(blob.digest)
        if not blob.diff_id:
            return self._bring(blob)
        with self._known.only_one(blob.digest, self.name.repository):
            if self.name.repository in self._known.of(blob.digest):
                return 0
            sent = self._bring(blob)
            self._known.remember(blob, self.name.repository)
            return sent

    def _bring(self, blob: Blob) -> int:
        """Mounts the blob, or sends it; returns the bytes sent."""
        from graftbox.image.upload import upload

        location = None
        for repository in self._places(blob):
            mounted, opened = self._mount(blob.digest, repository)
            if mounted:
                return 0
            if opened and location:
                self._connection.forget(location)
            location = opened or location
        upload(self._connection, blob, location)
        return blob.descriptor.size

    def _places(self, blob: Blob) -> list[str]:
        """Repositories of this registry that may hold the blob."""
        places = self._known.of(blob.digest)[:2] if blob.diff_id else []
        if blob.registry and blob.registry[0] == self.name.host:
            places.insert(0, blob.registry[1])
        return [p for p in dict.fromkeys(places) if p != self.name.repository]

    def _mount(self, digest: str, repository: str) -> tuple[bool, str | None]:
        """Mounts a blob from another repository; any refusal only means that it must be uploaded."""
        from graftbox.image.retry import BrokenError

        try:
            response = self._connection.request(
                "POST",
                f"{self._base}/blobs/uploads/",
                params={"mount": digest, "from": repository},
                content=b"",
                scope=f"repository:{repository}:pull",
                tries=MOUNT_TRIES,
            )
        except BrokenError:
            return False, None
        if response.status_code == 201:
            return True, None
        if response.status_code == 202 and response.headers.get("Location"):
            return False, self._connection.host.locate(response)
        return False, None

    def finish(self) -> None:
        assert self._top is not None, "finish() before an image was stored"
        for tag in self.tags[1:]:
            self.tag(self._top, tag)
        self._known.save(self._store)

    def tag(self, manifest: Document, tag: str) -> None:
        """Gives a manifest whose blobs are all here a further tag."""
        response = self._put_manifest(manifest, tag)
        self._connection.check(response, f"tag {self.name} as {tag}")

    def close(self) -> None:
        self._access.close()

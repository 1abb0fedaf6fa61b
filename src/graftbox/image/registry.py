"""Registries over HTTP (distribution-spec 1.1): images are read from and written to them without pulling.

A graft sends a config and a manifest; layers are sent only if the registry holds them nowhere. What the
registry lacks is learnt from its answer to the manifest, so nothing is asked blob by blob.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from graftbox.errors import NotFoundError, VerificationError
from graftbox.image.blob import Blob, verified
from graftbox.image.manifest import (
    ACCEPTED,
    MANIFEST_LIMIT,
    Descriptor,
    Document,
    document,
)
from graftbox.image.reference import ImageName
from graftbox.store import Store, digest_of

if TYPE_CHECKING:
    from graftbox.image.connection import Connection, Registries
    from graftbox.image.pool import Headers, Response

ACCEPT = {"Accept": ", ".join(ACCEPTED)}
MANY_UNKNOWN = 2
"""Up to so many layers are mounted at once; of more, the registry is first asked which ones it lacks."""
MOUNT_TRIES = 3
"""Some registries answer every mount with a server error; an upload is the better use of patience."""
NO_HEAD = frozenset({405, 501})
SPOILT = ("MANIFEST_INVALID", "DIGEST_INVALID")
"""Errors of a manifest that was damaged on the way: ours are valid."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
T = TypeVar("T")


class _Access:
    """A connection to one repository, over hosts that are shared or, without any, its own."""

    def __init__(
        self,
        name: ImageName,
        actions: str,
        insecure: frozenset[str],
        registries: Registries | None,
        authority: Path | None,
    ) -> None:
        from graftbox.image.connection import Connection, Registries
        from graftbox.image.host import Settings

        self._own = None if registries else Registries(Settings(insecure, authority))
        hosts = registries or self._own
        assert hosts is not None
        self.registries = hosts
        self.connection: Connection = Connection(hosts.host(name.host), name.repository, actions)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()


class RegistrySource:
    """An image in a registry. Layers are streamed and verified when, and only when, they are read.

    ``registries`` shares connections and log-ins with others; it stays open.
    """

    synthetic = False

    def __init__(
        self,
        name: ImageName,
        insecure: frozenset[str] = frozenset(),
        registries: Registries | None = None,
        authority: Path | None = None,
    ) -> None:
        self.name = name
        self._access = _Access(name, "pull", insecure, registries, authority)
        self._connection = self._access.connection

    def head(self) -> str:
        """The digest that the name stands for now, at the price of one HEAD."""
        if self.name.digest:
            return self.name.digest
        url = f"{self._connection.base}/manifests/{self.name.selector}"
        response = self._connection.request("HEAD", url, headers=ACCEPT)
        digest = response.headers.get("Docker-Content-Digest", "")
        if response.status_code == 200 and _DIGEST.fullmatch(digest):
            return str(digest)
        # Some registries answer a HEAD without a digest, or not at all; GET also says what is wrong.
        return self.resolve().digest

    def resolve(self) -> Document:
        return self._get(self.name.selector, self.name.digest)

    def manifest(self, descriptor: Descriptor) -> Document:
        return self._get(descriptor.digest, descriptor.digest)

    def _get(self, selector: str, digest: str | None) -> Document:
        return _again(lambda: self._get_once(selector, digest))

    def _get_once(self, selector: str, digest: str | None) -> Document:
        url = f"{self._connection.base}/manifests/{selector}"
        data, headers = self._whole(url)
        expected = digest or headers.get("Docker-Content-Digest")
        if expected and expected.startswith("sha256:") and (got := digest_of(data)) != expected:
            raise VerificationError(
                f"{self.name.host} answered with {got} where {expected} was expected of "
                f"{self.name}; nothing of it was used. Try again; if that fails too, the registry is damaged."
            )
        return document(data, headers.get("Content-Type"), str(self.name))

    def _whole(self, url: str) -> tuple[bytes, Headers]:
        """A manifest's bytes, read anew if the connection breaks."""
        from graftbox.image.retry import BrokenError

        attempt = 0
        while True:
            attempt += 1
            data = bytearray()
            try:
                with self._connection.stream("GET", url, headers=ACCEPT) as response:
                    if response.status_code == 404:
                        raise NotFoundError(
                            f"{self.name} does not exist. Check the spelling; if it is private, log in: "
                            f"docker login {self.name.host}"
                        )
                    self._connection.check(response, f"read {self.name}")
                    for chunk in self._connection.decoded(response):
                        data += chunk
                        if len(data) > MANIFEST_LIMIT:
                            raise VerificationError(
                                f"The manifest of {self.name} is larger than 4 MiB; refused."
                            )
                return bytes(data), response.headers
            except BrokenError as error:
                if error.unreachable or not self._connection.host.pause(attempt):
                    raise

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        return Blob(
            descriptor,
            lambda: verified(self._chunks(descriptor), descriptor, self.name.host),
            diff_id,
            registry=(self.name.host, self.name.repository),
        )

    def size(self, descriptor: Descriptor) -> int | None:
        url = f"{self._connection.base}/blobs/{descriptor.digest}"
        response = self._connection.request("HEAD", url)
        if response.status_code == 404:
            return None
        self._connection.check(response, f"look for {descriptor.digest} of {self.name}")
        length = response.headers.get("Content-Length", "")
        # A HEAD may leave the length out; then being there is all that can be told.
        return int(length) if length.isdecimal() else descriptor.size

    def _chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The blob's bytes; a break is gone on from by a range request (RFC 9110 section 14.2)."""
        from graftbox.image.retry import BrokenError

        position, attempt = 0, 0
        while True:
            before = position
            try:
                for chunk in self._from(descriptor, position):
                    position += len(chunk)
                    yield chunk
                if position >= descriptor.size or position == before:
                    # Whatever is wrong with it now is for the digest to tell.
                    return
            except BrokenError as error:
                attempt = attempt + 1 if position == before else 1
                if error.unreachable or not self._connection.host.pause(attempt):
                    raise

    def _from(self, descriptor: Descriptor, start: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = f"{self._connection.base}/blobs/{descriptor.digest}"
        with self._connection.stream("GET", url, headers=headers) as response:
            if response.status_code == 404:
                raise NotFoundError(
                    f"{self.name.host} lacks {descriptor.digest} of {self.name}; push the image again."
                )
            self._connection.check(response, f"read {descriptor.digest} of {self.name}")
            skip = start if response.status_code != 206 else 0
            # Some storages call a compressed layer encoded; its length tells that it is as it was stored.
            plain = response.headers.get("Content-Length") == str(descriptor.size - start + skip)
            chunks = self._connection.body if plain else self._connection.decoded
            for chunk in chunks(response):
                kept = chunk[skip:] if skip else chunk
                skip = max(0, skip - len(chunk))
                if kept:
                    yield kept

    def close(self) -> None:
        self._access.close()


def _again(read: Callable[[], T]) -> T:
    """Reads once more what was damaged on the way; damage that stays is the registry's own."""
    try:
        return read()
    except VerificationError:
        return read()


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
        self._access = _Access(name, "pull,push", insecure, registries, authority)
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
        if response.is_success and _DIGEST.fullmatch(digest):
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
            named = {d for error in errors for d in _DIGEST.findall(json.dumps(error.get("detail")))}
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

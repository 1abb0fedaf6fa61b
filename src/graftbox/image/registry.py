"""Registries over HTTP (distribution-spec 1.1): images are read from and written to them without pulling.

A graft sends a config and a manifest; layers are sent only if the registry holds them nowhere. What the
registry lacks is learnt from its answer to the manifest, so nothing is asked blob by blob.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graftbox.errors import GraftboxError, NotFoundError, TransportError, VerificationError
from graftbox.image.blob import Blob, verified
from graftbox.image.manifest import ACCEPTED, MANIFEST_LIMIT, Descriptor, Document, document
from graftbox.image.reference import ImageName
from graftbox.store import Store

if TYPE_CHECKING:
    import httpx2

    from graftbox.image.connection import Connection

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _connect(name: ImageName, insecure: frozenset[str], actions: str) -> Connection:
    from graftbox.image.connection import Connection

    return Connection(name.host, name.host in insecure, f"repository:{name.repository}:{actions}")


class RegistrySource:
    """An image in a registry. Layers are streamed and verified when, and only when, they are read."""

    synthetic = False

    def __init__(self, name: ImageName, insecure: frozenset[str] = frozenset()) -> None:
        self.name = name
        self._connection = _connect(name, insecure, "pull")

    def resolve(self) -> Document:
        return self._get(self.name.selector, self.name.digest)

    def manifest(self, descriptor: Descriptor) -> Document:
        return self._get(descriptor.digest, descriptor.digest)

    def _get(self, selector: str, digest: str | None) -> Document:
        url = f"/v2/{self.name.repository}/manifests/{selector}"
        with self._connection.stream("GET", url, headers={"Accept": ", ".join(ACCEPTED)}) as response:
            if response.status_code == 404:
                raise NotFoundError(
                    f"{self.name} does not exist. Check the spelling; if it is private, log in: "
                    f"docker login {self.name.host}"
                )
            self._connection.check(response, f"read {self.name}")
            data = b""
            for chunk in self._connection.body(response):
                data += chunk
                if len(data) > MANIFEST_LIMIT:
                    raise VerificationError(f"The manifest of {self.name} is larger than 4 MiB; refused.")
            expected = digest or response.headers.get("Docker-Content-Digest")
            kind = response.headers.get("Content-Type")
        found = document(data, kind, str(self.name))
        if expected and expected.startswith("sha256:") and found.digest != expected:
            raise VerificationError(
                f"{self.name.host} answered with {found.digest} where {expected} was expected of "
                f"{self.name}; nothing of it was used. Try again; if that fails too, the registry is damaged."
            )
        return found

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        return Blob(
            descriptor,
            lambda: verified(self._chunks(descriptor), descriptor, self.name.host),
            diff_id,
            registry=(self.name.host, self.name.repository),
        )

    def _chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        url = f"/v2/{self.name.repository}/blobs/{descriptor.digest}"
        with self._connection.stream("GET", url) as response:
            if response.status_code == 404:
                raise NotFoundError(
                    f"{self.name.host} lacks {descriptor.digest} of {self.name}; push the image again."
                )
            self._connection.check(response, f"read {descriptor.digest} of {self.name}")
            yield from self._connection.body(response)

    def close(self) -> None:
        self._connection.close()


class RegistryTarget:
    """One repository that images are written to, under one or more tags."""

    parallel = 4

    def __init__(
        self,
        name: ImageName,
        tags: Sequence[str],
        store: Store,
        insecure: frozenset[str] = frozenset(),
    ) -> None:
        self.name, self.tags = name, tuple(tags)
        self._connection = _connect(name, insecure, "pull,push")
        self._known = _KnownPlaces(store, name.host)
        self._top: Document | None = None
        self._offered: set[str] = set()
        self._base = f"/v2/{name.repository}"

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        selector = (self.tags[0] if self.tags else manifest.digest) if top else manifest.digest
        if manifest.digest not in self._offered:
            self._offered.add(manifest.digest)
            if self._has_manifest(selector, manifest.digest):
                self._top = manifest
                return []
            if config and all(self._places(blob) for blob in blobs[1:]):
                # Nothing speaks for this repository having any of it: no need to ask.
                return list(blobs)
            if config:
                # The config is nearly always new: sent unasked, it saves the question.
                self.put(blobs[0])
        url, headers = f"{self._base}/manifests/{selector}", {"Content-Type": manifest.media_type}
        response = self._connection.request("PUT", url, headers=headers, content=manifest.data)
        self._top = manifest
        if response.status_code in {400, 404, 422} and blobs and (missing := self._missing(response, blobs)):
            return missing
        self._connection.check(response, f"write the manifest of {self.name}")
        return []

    def _has_manifest(self, selector: str, digest: str) -> bool:
        url = f"{self._base}/manifests/{selector}"
        response = self._connection.request("HEAD", url, headers={"Accept": ", ".join(ACCEPTED)})
        return response.status_code == 200 and response.headers.get("Docker-Content-Digest") == digest

    def _missing(self, response: httpx2.Response, blobs: Sequence[Blob]) -> list[Blob]:
        """What the registry says it lacks; asked blob by blob where it does not say."""
        named = set()
        try:
            errors = response.json()["errors"]
            named = {d for error in errors for d in _DIGEST.findall(json.dumps(error.get("detail")))}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        return [blob for blob in blobs if blob.digest in named] or [
            b for b in blobs if not self._has(b.digest)
        ]

    def _has(self, digest: str) -> bool:
        return self._connection.request("HEAD", f"{self._base}/blobs/{digest}").status_code == 200

    def put(self, blob: Blob) -> int:
        location = None
        for repository in self._places(blob):
            mounted, location = self._mount(blob.digest, repository)
            if mounted:
                self._known.remember(blob, self.name.repository)
                return 0
        if location is None:
            response = self._connection.request("POST", f"{self._base}/blobs/uploads/", content=b"")
            self._connection.check(response, f"write to {self.name}")
            location = self._location(response)
        self._upload(location, blob)
        self._known.remember(blob, self.name.repository)
        return blob.descriptor.size

    def _places(self, blob: Blob) -> list[str]:
        """Repositories of this registry that may hold the blob."""
        places = [self._known.repository(blob.digest) if blob.diff_id else None]
        if blob.registry and blob.registry[0] == self.name.host:
            places.insert(0, blob.registry[1])
        return [p for p in dict.fromkeys(places) if p and p != self.name.repository]

    def _mount(self, digest: str, repository: str) -> tuple[bool, str | None]:
        """Mounts a blob from another repository; any refusal only means that it must be uploaded."""
        response = self._connection.request(
            "POST",
            f"{self._base}/blobs/uploads/",
            params={"mount": digest, "from": repository},
            content=b"",
            scope=f"repository:{repository}:pull",
        )
        if response.status_code == 201:
            return True, None
        if response.status_code == 202:
            return False, self._location(response)
        return False, None

    def _location(self, response: httpx2.Response) -> str:
        location = response.headers.get("Location")
        if not location:
            raise TransportError(f"{self.name.host} opened an upload without saying where; nothing was sent.")
        return str(response.url.join(location))

    def _upload(self, location: str, blob: Blob) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
        length = {"Content-Length": str(blob.descriptor.size), "Content-Type": "application/octet-stream"}
        try:
            response = self._connection.request("PUT", url, headers=length, content=blob.open())
        except GraftboxError:
            self._connection.forget(location)
            raise
        self._connection.check(response, f"write {blob.digest} to {self.name}")

    def finish(self) -> None:
        assert self._top is not None, "finish() before an image was stored"
        headers = {"Content-Type": self._top.media_type}
        for tag in self.tags[1:]:
            url = f"{self._base}/manifests/{tag}"
            response = self._connection.request("PUT", url, headers=headers, content=self._top.data)
            self._connection.check(response, f"tag {self.name} as {tag}")
        self._known.save()

    def close(self) -> None:
        self._connection.close()


class _KnownPlaces:
    """Which repository of a registry was last given a blob: a hint for mounting, never trusted."""

    def __init__(self, store: Store, host: str) -> None:
        self._store, self._file = store, f"{host.replace(':', '_')}.json"
        self._places: dict[str, str] | None = None
        self._changed = False

    def _load(self) -> dict[str, str]:
        if self._places is None:
            try:
                loaded = json.loads((self._store.root / "registries" / self._file).read_bytes())
                self._places = {str(k): str(v) for k, v in loaded.items()}
            except (OSError, ValueError, AttributeError):
                self._places = {}
        return self._places

    def repository(self, digest: str) -> str | None:
        return self._load().get(digest)

    def remember(self, blob: Blob, repository: str) -> None:
        """Layers only: a config is small and belongs to one image."""
        if blob.diff_id and self._load().get(blob.digest) != repository:
            self._load()[blob.digest] = repository
            self._changed = True

    def save(self) -> None:
        """Best effort: without the hint, the next repository is sent the blob once more."""
        if not self._changed:
            return
        try:
            path = self._store.folder("registries") / self._file
            with self._store.temporary_file() as (stream, temporary):
                stream.write(json.dumps(self._places).encode())
                stream.close()
                temporary.replace(path)
        except (OSError, GraftboxError):
            return

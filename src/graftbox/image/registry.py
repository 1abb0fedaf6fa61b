"""Images are read from registries (distribution-spec 1.1, "Pull"), and their layers only if somebody asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
from graftbox.store import digest_of

if TYPE_CHECKING:
    from graftbox.image.connection import Connection, Registries
    from graftbox.image.pool import Headers

ACCEPT = {"Accept": ", ".join(ACCEPTED)}
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
T = TypeVar("T")


class RepositoryAccess:
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
        self._access = RepositoryAccess(name, "pull", insecure, registries, authority)
        self._connection = self._access.connection

    def head(self) -> str:
        """The digest that the name stands for now, at the price of one HEAD."""
        if self.name.digest:
            return self.name.digest
        url = f"{self._connection.base}/manifests/{self.name.selector}"
        response = self._connection.request("HEAD", url, headers=ACCEPT)
        digest = response.headers.get("Docker-Content-Digest", "")
        if response.status_code == 200 and DIGEST.fullmatch(digest):
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

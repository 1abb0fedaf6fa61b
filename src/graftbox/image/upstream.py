"""The registries behind a mirror: which ones there are, and what is asked of them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from graftbox.errors import FormatError, NotFoundError, UsageError, VerificationError
from graftbox.image.manifest import ACCEPTED, Descriptor
from graftbox.image.reference import DOCKER_HUB, ImageName, image_name

if TYPE_CHECKING:
    from graftbox.image.connection import Connection, Registries
    from graftbox.image.registry import RegistrySource

LIST_LIMIT = 16 << 20
"""Bytes of a list of tags."""
_LINK = re.compile(r"<[^>]*\?([^>]*)>")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Upstream:
    """A registry that clients may name, and where it is really asked: ``HOST`` or ``HOST=URL``.

    A path in the URL goes before every repository, as pull-through caches want it. A ``name`` without
    a dot or port (``local=http://127.0.0.1:5000``) is only an alias: labels then record the real host.
    """

    name: str
    host: str
    prefix: str = ""
    plain: bool = False
    """Spoken to without TLS, because the URL says http."""

    @classmethod
    def parse(cls, text: str) -> Upstream:
        """Reads ``HOST[=URL]``; raises `UsageError` for anything else."""
        name, equals, url = text.partition("=")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", name):
            raise UsageError(f"{text!r}: {name!r} is no name that an image's name can begin with.")
        if not equals and not _is_host(name):
            raise UsageError(
                f"{text!r} is no registry's host; give an alias its address: {name}=http://HOST:PORT"
            )
        if not equals:
            return cls(name, image_name(f"{name}/x").host)
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
            raise UsageError(
                f"{text!r}: an upstream is HOST or HOST=URL, as in docker.io=https://cache.example/hub"
            )
        return cls(name, parts.netloc.lower(), parts.path.strip("/"), parts.scheme == "http")

    def image(self, repository: str, selector: str) -> ImageName:
        """The image as it is asked for at the real host."""
        path = f"{self.prefix}/{repository}" if self.prefix else repository
        if _DIGEST.fullmatch(selector):
            return ImageName(self.host, path, None, selector)
        return ImageName(self.host, path, selector, None)

    def original(self, repository: str, tag: str) -> str:
        """The name that a runtime image records as its base, as `graft` records it too."""
        if _is_host(self.name):
            return str(ImageName(self.name, repository, tag, None))
        return str(self.image(repository, tag))

    def repository(self, path: str) -> str:
        """The repository for a path as clients write it; Docker Hub's short names are spelt out."""
        return f"library/{path}" if self.name == DOCKER_HUB and "/" not in path else path


def _is_host(name: str) -> bool:
    return bool(set(name) & set(".:")) or name == "localhost"


class Repository:
    """One repository upstream, read with this machine's own credentials. For use by several threads."""

    def __init__(self, upstream: Upstream, path: str, registries: Registries) -> None:
        self.upstream, self.path, self.registries = upstream, path, registries
        self.name = upstream.image(path, "latest")

    @property
    def _connection(self) -> Connection:
        from graftbox.image.connection import Connection

        return Connection(self.registries.host(self.name.host), self.name.repository, "pull")

    def source(self, selector: str) -> RegistrySource:
        """The image that a tag or digest names."""
        from graftbox.image.registry import RegistrySource

        return RegistrySource(self.upstream.image(self.path, selector), registries=self.registries)

    def digest(self, tag: str) -> str:
        """What the tag stands for now, without counting as a pull where the registry says it to a HEAD.

        Raises `BrokenError` if that cannot be learnt now, another error if it is gone or must not be.
        """
        from graftbox.image.retry import AGAIN, BrokenError, retry_after

        connection = self._connection
        url = f"{connection.base}/manifests/{tag}"
        response = connection.request("HEAD", url, headers={"Accept": ", ".join(ACCEPTED)})
        if response.status_code in AGAIN:
            raise BrokenError(
                f"{self.name.host} answers {response.status_code}; try again later.",
                status=response.status_code,
                retry_after=retry_after(response.headers.get("Retry-After")),
            )
        found = response.headers.get("Docker-Content-Digest", "")
        if response.status_code == 200 and _DIGEST.fullmatch(found):
            return str(found)
        # GET also says what is wrong.
        with contextlib.closing(self.source(tag)) as source:
            return source.resolve().digest

    def public_address(self, digest: str) -> str | None:
        """Where anybody can fetch a blob without credentials of ours: the registry itself, or a signed
        address that it hands out; None if only our credentials open it.
        """
        connection = self._connection
        url = f"{connection.base}/blobs/{digest}"
        # One byte is enough to learn the address, and leaves the connection usable.
        with connection.stream("GET", url, headers={"Range": "bytes=0-0"}) as response:
            if response.status_code == 404:
                raise NotFoundError(f"{self.name.host} lacks {digest} of {self.name.repository}.")
            connection.check(response, f"read {digest} of {self.name.repository}")
            if response.status_code == 206:
                for _ in connection.body(response):
                    pass
            sent = {name.lower() for name in response.request.headers}
            return None if "authorization" in sent else str(response.url)

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob's bytes; the last of them only if all of them were the right ones."""
        with contextlib.closing(self.source(descriptor.digest)) as source:
            held = None
            for chunk in source.blob(descriptor).open():
                if held is not None:
                    yield held
                held = chunk
            if held is not None:
                yield held

    def tags(self, query: Mapping[str, str]) -> tuple[list[str], str | None]:
        """A page of tags, and the query of the next page."""
        wanted = {key: query[key] for key in ("n", "last") if key in query}
        connection = self._connection
        url = f"{connection.base}/tags/list"
        with connection.stream("GET", url, params=wanted) as response:
            if response.status_code == 404:
                raise NotFoundError(f"{self.name.host} has no repository {self.name.repository}.")
            connection.check(response, f"list the tags of {self.name.repository}")
            data = b""
            for chunk in connection.body(response):
                data += chunk
                if len(data) > LIST_LIMIT:
                    raise VerificationError(
                        f"{self.name.host} lists more than 16 MiB of tags; ask for less with n="
                    )
            link = _LINK.match(response.headers.get("Link", ""))
        try:
            names = [str(name) for name in json.loads(data)["tags"] or []]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self.name.host} answered with something that is no list of tags.") from error
        return names, link[1] if link else None

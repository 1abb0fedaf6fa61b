"""Images of a Docker daemon, over its Engine API: only the layers that it lacks are sent to it.

``docker load`` opens the file of a layer only if no image has that layer on the same layers below.
So a *skeleton* (config and list of layers, a few kB) is offered first, and what the daemon misses
is read from its own complaint (moby, image/tarexport/load.go).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graftbox import __version__
from graftbox.errors import ConfigurationError, NotFoundError, TransportError, UnsupportedError
from graftbox.image.archive import Archive, DockerArchiveSource, OciArchiveSource
from graftbox.image.archive_target import engine_archive
from graftbox.image.blob import Blob, Source
from graftbox.image.channel import Content
from graftbox.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Descriptor,
    Document,
    serialise,
)
from graftbox.image.pool import BREAKS, Pool, Response
from graftbox.image.reference import ImageName
from graftbox.image.stream import UnreachableError
from graftbox.image.tls import usual
from graftbox.store import Store, storage_errors

SOCKET = "/var/run/docker.sock"
PATIENCE = 300.0
"""Seconds; Docker answers only when it has unpacked what it was given."""
_MISSING = re.compile(r"blobs/sha256/([0-9a-f]{64}): no such file")
_CONFIG_FACTS = ("architecture", "os", "variant", "created", "author", "config")


class Daemon:
    """A connection to a daemon: ``unix://PATH`` or ``tcp://HOST:PORT`` (plain HTTP, as Docker means it)."""

    def __init__(self, host: str | None = None) -> None:
        self.host = host or os.environ.get("DOCKER_HOST") or f"unix://{SOCKET}"
        kind, _, rest = self.host.partition("://")
        if kind not in {"unix", "tcp", "http"} or (kind != "unix" and os.environ.get("DOCKER_TLS_VERIFY")):
            raise ConfigurationError(
                f"graftbox reaches Docker through unix:// and tcp:// without TLS, not {self.host}. Forward "
                "its socket (ssh -L /tmp/docker.sock:/var/run/docker.sock HOST) and set DOCKER_HOST to it."
            )
        self._address = "http://docker" if kind == "unix" else f"http://{rest}"
        socket = rest if kind == "unix" else ""
        self._pool = Pool(usual, f"graftbox/{__version__}", 2, False, socket=socket, patience=PATIENCE)
        self._in_containerd: bool | None = None

    def _unreachable(self, error: Exception) -> TransportError:
        return TransportError(
            f"Cannot reach Docker at {self.host} ({error}). Start it, set DOCKER_HOST to its address, "
            "and check that you may use its socket (group docker)."
        )

    def get(self, path: str) -> Any:
        """The parsed answer of a GET, or None if there is no such thing."""
        response = self._asked("GET", path)
        if response.status_code == 404:
            return None
        self._check(response)
        return response.json()

    def _asked(self, method: str, path: str, content: Content = None, **headers: str) -> Response:
        with self.in_words():
            response = self._pool.send(method, self._address + path, headers, content)
            try:
                response.content = b"".join(response.pieces())
            finally:
                response.close()
        return response

    def inspect(self, name: ImageName) -> dict[str, Any]:
        """``docker image inspect``; `NotFoundError` if the daemon has no such image."""
        found = self.get(f"/images/{name.familiar}/json")
        if not isinstance(found, dict):
            raise NotFoundError(
                f"Docker at {self.host} has no image {name.familiar}. Pull it (docker pull {name.familiar}), "
                f"or name it docker://{name} to read it from its registry."
            )
        return found

    def uses_containerd_store(self) -> bool:
        """Whether images are kept by containerd, which needs every layer of an image it loads."""
        if self._in_containerd is None:
            info = self.get("/info") or {}
            self._in_containerd = "io.containerd" in json.dumps(info.get("DriverStatus") or [])
        return self._in_containerd

    def save(self, name: ImageName, path: Path) -> None:
        """``docker save`` into ``path``."""
        with self.in_words(), path.open("wb") as file:
            response = self._pool.send("GET", f"{self._address}/images/{name.familiar}/get", {}, None)
            with contextlib.closing(response):
                if not response.is_success:
                    response.content = b"".join(response.pieces())
                self._check(response)
                for chunk in response.pieces():
                    file.write(chunk)

    def load(self, archive: Iterator[bytes]) -> str | None:
        """``docker load`` of a stream; returns the daemon's complaint, or None if it was content."""
        chunked = {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
        response = self._asked("POST", "/images/load?quiet=1", archive, **chunked)
        for line in response.text.splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                answer = json.loads(line)
                if complaint := answer.get("error") or (not response.is_success and answer.get("message")):
                    return str(complaint)
        self._check(response)
        return None

    def _check(self, response: Response) -> None:
        if not response.is_success:
            detail = response.text[:300].strip()
            raise TransportError(f"Docker at {self.host} refused: {response.status_code} {detail}.")

    @contextlib.contextmanager
    def in_words(self) -> Iterator[None]:
        try:
            yield
        except UnreachableError as error:
            raise self._unreachable(error) from error
        except BREAKS as error:
            raise TransportError(
                f"The connection to Docker at {self.host} broke ({error or type(error).__name__}); "
                "run the command again."
            ) from error

    def close(self) -> None:
        self._pool.close()


def inspected(facts: dict[str, Any], history: list[dict[str, Any]]) -> tuple[Document, bytes]:
    """Manifest and config of an image of which only ``image inspect`` is known."""
    diff_ids = _diff_ids(facts)
    spelt = {key[0].upper() + key[1:]: key for key in _CONFIG_FACTS}
    config = {key: facts[name] for name, key in spelt.items() if facts.get(name)}
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    if history:
        config["history"] = history
    data = serialise(config)
    # The image's ID is the digest of a config that the API does not show: right name, bytes of ours.
    body = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, "digest": facts["Id"], "size": len(data)},
        "layers": [{"mediaType": DOCKER_LAYER, "digest": diff_id, "size": 0} for diff_id in diff_ids],
    }
    return Document(serialise(body), DOCKER_MANIFEST), data


def _diff_ids(facts: dict[str, Any]) -> list[str]:
    return [str(diff_id) for diff_id in (facts.get("RootFS") or {}).get("Layers") or []]


class DaemonSource:
    """What a daemon says about an image without exporting it: enough to graft it in the same daemon."""

    synthetic = True

    def __init__(self, daemon: Daemon, name: ImageName) -> None:
        self.daemon, self.name = daemon, name
        self._config = b""

    def resolve(self) -> Document:
        facts = self.daemon.inspect(self.name)
        document, self._config = inspected(facts, self._history(len(_diff_ids(facts))))
        return document

    def _history(self, layers: int) -> list[dict[str, Any]]:
        """The history, if it can be told which of its entries made layers."""
        rows = list(reversed(self.daemon.get(f"/images/{self.name.familiar}/history") or []))
        with_layer = [row.get("Size", 0) > 0 for row in rows]
        if sum(with_layer) != layers:
            return []
        entries = []
        for row, kept in zip(rows, with_layer, strict=True):
            entry: dict[str, Any] = {
                "created_by": row.get("CreatedBy", ""),
                "comment": row.get("Comment", ""),
            }
            entries.append(entry if kept else {**entry, "empty_layer": True})
        return entries

    def manifest(self, descriptor: Descriptor) -> Document:
        raise NotFoundError(f"Docker holds no manifest {descriptor.digest}.")

    def blob(self, descriptor: Descriptor, diff_id: str | None = None) -> Blob:
        if diff_id is None:
            return Blob(descriptor, lambda: iter([self._config]))
        return Blob(descriptor, self._unreadable, diff_id)

    def _unreadable(self) -> Iterator[bytes]:
        raise UnsupportedError(f"The layers of {self.name.familiar} were not exported from Docker.")

    def close(self) -> None:
        self.daemon.close()


class Exported:
    """A source over a temporary export, deleted when it is closed."""

    def __init__(self, inner: DockerArchiveSource | OciArchiveSource) -> None:
        self._inner = inner
        self.synthetic = inner.synthetic
        self.resolve, self.manifest, self.blob = inner.resolve, inner.manifest, inner.blob

    def close(self) -> None:
        self._inner.close()


def exported(daemon: Daemon, name: ImageName, store: Store) -> Source:
    """The image with its layers, by ``docker save`` into a file that is nameless once it is open."""
    daemon.inspect(name)
    with storage_errors(store.root), store.temporary_file() as (stream, path):
        stream.close()
        try:
            daemon.save(name, path)
        finally:
            daemon.close()
        return Exported(DockerArchiveSource(Archive(path)))


class DaemonTarget:
    """Loads images into a daemon under ``names`` (``team/app:1``)."""

    parallel = 1

    def __init__(self, daemon: Daemon, names: Sequence[str]) -> None:
        self.daemon, self.names = daemon, tuple(names)
        self._held: dict[str, Blob] = {}
        self._whole = daemon.uses_containerd_store()

    def offer(self, manifest: Document, config: bytes, blobs: Sequence[Blob], top: bool) -> list[Blob]:
        layers = [blob for blob in blobs if blob.diff_id]
        if self._whole and not self._held and layers:
            return layers
        complaint = self.daemon.load(self._archive(manifest, config, layers))
        if complaint is None:
            return []
        found = _MISSING.search(complaint)
        digests = [layer.digest.removeprefix("sha256:") for layer in layers]
        if found and found[1] in digests and not self._held:
            # What lies above a layer that is missing is missing too: layers are kept by their whole chain.
            return layers[digests.index(found[1]) :]
        if "max depth exceeded" in complaint:
            raise UnsupportedError(
                f"Docker at {self.daemon.host} takes no image of {len(layers)} layers ({complaint}). "
                "Squash the base, or run it on another engine (graftbox run --engine embedded)."
            )
        raise TransportError(f"Docker at {self.daemon.host} refused the image: {complaint}.")

    def put(self, blob: Blob) -> int:
        """Remembers the blob for the one stream in which the second offer sends everything."""
        self._held[blob.digest] = blob
        return blob.descriptor.size

    def _archive(self, manifest: Document, config: bytes, layers: Sequence[Blob]) -> Iterator[bytes]:
        held = [self._held[blob.digest] for blob in layers if blob.digest in self._held]
        return engine_archive(manifest, config, held, self.names, layout=self._whole)

    def finish(self) -> None:
        """The daemon has named the image when it loaded it."""

    def close(self) -> None:
        self.daemon.close()

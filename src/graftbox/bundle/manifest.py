"""The bundle manifest: which layers a built bundle consists of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftbox import __version__
from graftbox.errors import FormatError
from graftbox.store import digest_of

SCHEMA = 1


@dataclass(frozen=True)
class Layer:
    """A layer's facts: ``digest`` of the blob in the store, ``diff_id`` of the tar; sizes in bytes."""

    name: str
    component: str
    digest: str
    diff_id: str
    size: int
    compressed_size: int
    files: int
    compression: str = "gzip"
    """``gzip``, ``zstd`` or ``estargz``."""
    toc: str = ""
    """``sha256:…`` of an eStargz layer's table of contents."""

    @property
    def facts(self) -> dict[str, Any]:
        """As in JSON. What an ordinary gzip layer has not is left out, so that its JSON stays what it was."""
        facts = dataclasses.asdict(self)
        if self.compression == "gzip":
            del facts["compression"]
        if not self.toc:
            del facts["toc"]
        return facts


@dataclass(frozen=True)
class BundleManifest:
    """A built bundle for one architecture; ``lock`` is the digest of the lock it was made from."""

    arch: str
    flavor: str
    lock: str
    components: tuple[str, ...]
    layers: tuple[Layer, ...]
    version: str = __version__

    @property
    def digest(self) -> str:
        """``sha256:…`` of what the bundle is: architecture, flavour and layers, not who made it when."""
        facts = {
            "arch": self.arch,
            "flavor": self.flavor,
            "layers": [layer.facts for layer in self.layers],
        }
        return digest_of(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode())

    def to_json(self) -> bytes:
        """The file's bytes; the same bundle always gives the same ones."""
        document = {"schema": SCHEMA, "digest": self.digest, **dataclasses.asdict(self)}
        document["layers"] = [layer.facts for layer in self.layers]
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def parse(data: bytes, where: str) -> BundleManifest:
    """A manifest from its bytes; a damaged one is a `FormatError`."""
    try:
        document: Mapping[str, Any] = json.loads(data)
        manifest = BundleManifest(
            arch=document["arch"],
            flavor=document["flavor"],
            lock=document["lock"],
            components=tuple(document["components"]),
            layers=tuple(Layer(**layer) for layer in document["layers"]),
            version=document["version"],
        )
        if document["schema"] != SCHEMA or document["digest"] != manifest.digest:
            raise ValueError("its digest is not that of its content")
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"The bundle manifest {where} is damaged ({error}). Delete it and build again."
        ) from error
    return manifest

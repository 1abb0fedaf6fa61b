"""What a mirror has grafted of one repository, kept on disk so that answers outlive restarts.

Below ``mirror/<hash of the repository>`` in the store there is one record per tag, base digest, bundle and
options. Manifests and configs themselves are blobs of the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from graftbox.image.manifest import serialise
from graftbox.image.place import Plan
from graftbox.store import Store

SCHEMA = 1


class Kind(Enum):
    """Where the bytes of a digest are."""

    MANIFEST = "manifest"
    STORED = "stored"
    """A config or a layer of the bundle, in the store."""
    BASE = "base"
    """A layer of the base, upstream."""


@dataclass(frozen=True)
class Item:
    """Something that a client may ask for by its digest; ``size`` in bytes."""

    kind: Kind
    media_type: str
    size: int


@dataclass(frozen=True)
class Grafted:
    """A tag's runtime image: the digest of its base, of its own manifest or index, and all it consists of."""

    tag: str
    base: str
    top: str
    items: Mapping[str, Item]


class Shelf:
    """The records of one repository, for several threads.

    ``context`` is what else its images depend on: bundles and options. Images of other contexts are
    known by their digests only.
    """

    def __init__(self, store: Store, repository: str, context: str) -> None:
        self._store, self._context = store, context
        self._place = ("mirror", hashlib.sha256(repository.encode()).hexdigest()[:32])
        self.items: dict[str, Item] = {}
        current = []
        for path in sorted(store.root.joinpath(*self._place).glob("*.json"), key=_age):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                image, context_then = _parse(path.read_bytes())
                self.items.update(image.items)
                if context_then == context:
                    current.append(image)
        self._images = {(image.tag, image.base): image for image in current}
        self._newest = {image.tag: image.base for image in current}

    def find(self, tag: str, base: str) -> Grafted | None:
        """The image made of this base, if all of it that is ours is still in the store."""
        image = self._images.get((tag, base))
        if image is None or not all(
            item.kind is Kind.BASE or self._store.has(digest, item.size)
            for digest, item in image.items.items()
        ):
            return None
        return image

    def newest(self, tag: str) -> Grafted | None:
        """The image that was made last for this tag."""
        base = self._newest.get(tag)
        return self.find(tag, base) if base else None

    def add(self, tag: str, base: str, plan: Plan) -> Grafted:
        """Stores what was planned: bytes first, then the record that makes them known."""
        items: dict[str, Item] = {}
        for planned in plan.images:
            self._store.put(planned.image.config)
            self._manifest(planned.image.manifest.data, planned.image.manifest.media_type, items)
            for blob in planned.blobs:
                ours = blob.diff_id is None or blob.path is not None
                kind = Kind.STORED if ours else Kind.BASE
                items[blob.digest] = Item(kind, blob.descriptor.media_type, blob.descriptor.size)
        if plan.index is not None:
            self._manifest(plan.index.data, plan.index.media_type, items)
        image = Grafted(tag, base, plan.top.digest, items)
        key = hashlib.sha256(serialise([SCHEMA, tag, base, self._context])).hexdigest()
        _write(self._store, self._store.folder(*self._place) / f"{key}.json", _record(image, self._context))
        self._images[tag, base] = image
        self._newest[tag] = base
        self.items.update(items)
        return image

    def _manifest(self, data: bytes, media_type: str, items: dict[str, Item]) -> None:
        items[self._store.put(data)] = Item(Kind.MANIFEST, media_type, len(data))


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def _record(image: Grafted, context: str) -> bytes:
    items = {digest: [item.kind.value, item.media_type, item.size] for digest, item in image.items.items()}
    facts = {"schema": SCHEMA, "tag": image.tag, "base": image.base, "top": image.top}
    return serialise({**facts, "context": context, "items": items})


def _parse(data: bytes) -> tuple[Grafted, str]:
    facts: dict[str, Any] = json.loads(data)
    if facts["schema"] != SCHEMA:
        raise ValueError("another version's record")
    items = {
        str(digest): Item(Kind(kind), str(media_type), int(size))
        for digest, (kind, media_type, size) in facts["items"].items()
    }
    return Grafted(facts["tag"], facts["base"], facts["top"], items), facts["context"]


def _write(store: Store, path: Path, data: bytes) -> None:
    with store.temporary_file() as (stream, temporary):
        stream.write(data)
        stream.close()
        temporary.replace(path)

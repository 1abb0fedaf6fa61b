"""Which repositories of a registry hold a blob: hints for mounting and skipping, never trusted."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator

from graftbox.errors import GraftboxError
from graftbox.image.blob import Blob
from graftbox.store import Store

KEPT = 4096
"""Blobs that are remembered; the least used are forgotten."""
REPOSITORIES = 8
"""Repositories that are remembered of one blob."""


class Places:
    """What one registry was given or has mounted, for many threads.

    The bundle's own layers are also remembered on disk: the next command, and the next repository, mount
    them instead of sending them again.
    """

    def __init__(self, host: str) -> None:
        self._file = f"{host.replace(':', '_')}.json"
        self._places: OrderedDict[str, list[str]] = OrderedDict()
        self._saved: dict[str, str] = {}
        self._loaded = self._changed = False
        self._guard = threading.Lock()
        self._under_way: dict[tuple[str, str], tuple[threading.Lock, list[int]]] = {}

    def load(self, store: Store) -> None:
        """Reads what earlier commands have remembered, once."""
        with self._guard:
            if self._loaded:
                return
            self._loaded = True
            try:
                loaded = json.loads((store.root / "registries" / self._file).read_bytes())
                self._saved = {str(digest): str(repository) for digest, repository in loaded.items()}
            except (OSError, ValueError, AttributeError):
                return
            for digest, repository in self._saved.items():
                self._places[digest] = [repository]

    def of(self, digest: str) -> list[str]:
        """Repositories that hold the blob, the latest first."""
        with self._guard:
            return list(reversed(self._places.get(digest, [])))

    def remember(self, blob: Blob, repository: str) -> None:
        """Layers only: a config is small and belongs to one image."""
        if not blob.diff_id:
            return
        with self._guard:
            known = self._places.setdefault(blob.digest, [])
            self._places.move_to_end(blob.digest)
            if repository not in known:
                known.append(repository)
                del known[:-REPOSITORIES]
            while len(self._places) > KEPT:
                self._places.popitem(last=False)
            if blob.path is not None and blob.digest not in self._saved:
                self._saved[blob.digest] = repository
                self._changed = True

    def forget(self, digest: str, repository: str) -> None:
        """The registry says that the blob is not there."""
        with self._guard:
            known = self._places.get(digest, [])
            if repository in known:
                known.remove(repository)
            if self._saved.get(digest) == repository:
                del self._saved[digest]
                self._changed = True

    @contextlib.contextmanager
    def only_one(self, digest: str, repository: str) -> Iterator[None]:
        """Held while a blob is brought to a repository, so that two images do not send it twice."""
        key = digest, repository
        with self._guard:
            lock, users = self._under_way.setdefault(key, (threading.Lock(), [0]))
            users[0] += 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                users[0] -= 1
                if not users[0]:
                    self._under_way.pop(key, None)

    def save(self, store: Store) -> None:
        """Best effort: without the hint, the next repository is sent the blob once more."""
        with self._guard:
            if not self._changed:
                return
            self._changed, saved = False, json.dumps(self._saved).encode()
        with contextlib.suppress(OSError, GraftboxError):
            path = store.folder("registries") / self._file
            with store.temporary_file() as (stream, temporary):
                stream.write(saved)
                stream.close()
                temporary.replace(path)

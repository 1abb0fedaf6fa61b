"""What files were before their last edits, for undo_edit, in bounded memory."""

from __future__ import annotations

import zlib
from collections import OrderedDict, deque
from pathlib import Path

DEPTH = 10
"""Edits of one file that can be undone, as in the model."""
MAX_BYTES = 32 * 1024 * 1024
"""Of all former contents together, compressed; beyond it, what was edited longest ago is forgotten."""


class History:
    """Former contents of files by path."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self.limit = limit
        self.size = 0
        self.files: OrderedDict[Path, deque[bytes]] = OrderedDict()

    def add(self, path: Path, content: bytes) -> None:
        packed = zlib.compress(content, 1)
        contents = self.files.setdefault(path, deque())
        self.files.move_to_end(path)
        contents.append(packed)
        self.size += len(packed)
        if len(contents) > DEPTH:
            self._forget(path)
        while self.size > self.limit:
            self._forget(next(iter(self.files)))

    def last(self, path: Path) -> bytes | None:
        """The file's content before its last edit."""
        return zlib.decompress(self.files[path][-1]) if path in self.files else None

    def drop(self, path: Path) -> None:
        """Forget the last edit of ``path``."""
        self.size -= len(self.files[path].pop())
        if not self.files[path]:
            del self.files[path]

    def _forget(self, path: Path) -> None:
        self.size -= len(self.files[path].popleft())
        if not self.files[path]:
            del self.files[path]

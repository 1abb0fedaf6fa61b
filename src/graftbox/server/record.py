"""What the next server must know of a session: one line of JSON in a small file."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

_ROOM = 4096


class Record:
    """The file at ``path``; a disk that is full or refuses costs the next server the session, no more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None
        with contextlib.suppress(OSError):
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # So that the first lines never need more room.
            os.posix_fallocate(self.descriptor, 0, _ROOM)

    def save(self, facts: dict[str, Any]) -> None:
        """One write, so that a server that is killed leaves either the old facts or the new ones."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self.descriptor, json.dumps(facts).encode() + b"\n", 0)

    def load(self) -> dict[str, Any] | None:
        """The facts that were saved last, None where there are none."""
        if self.descriptor is None:
            return None
        try:
            facts = json.loads(self.path.read_bytes().partition(b"\n")[0])
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def remove(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        with contextlib.suppress(OSError):
            self.path.unlink()

"""Output kept for later: bytes with offsets that never start again, first in memory, then in files.

Short output never touches the disk. Longer output goes to files of one segment each, of which the oldest is
removed when there are too many. Where the disk refuses, the newest bytes are kept in memory instead.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from graftbox.errors import StorageError

MEMORY = 64 * 1024
"""Bytes kept without a file."""
SEGMENTS = 8


class Spool:
    """One thread at a time may append; others may read meanwhile. Files are called ``name.0``, ``name.1``, …
    in the folder that ``folder()`` returns, which is asked with the first file.

    ``start``: the oldest offset still kept; ``end``: the next one to come; ``fault``: why bytes were dropped
    before the capacity was reached, None as long as that has not happened.
    """

    def __init__(self, folder: Callable[[], Path], name: str, capacity: int) -> None:
        self.folder = folder
        self.name = name
        self.segment = max(capacity // SEGMENTS, MEMORY)
        self.start = 0
        self.end = 0
        self.fault: str | None = None
        # Offset and bytes, replaced as one so that another thread never sees half of a change.
        self._memory: tuple[int, bytes] | None = (0, b"")
        self._file = -1
        self._used = False

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more bytes can be appended without waiting for a disk."""
        return self._memory is not None and (self.fault is not None or len(self._memory[1]) + size <= MEMORY)

    @property
    def on_disk(self) -> bool:
        return self._memory is None

    def append(self, data: bytes | memoryview) -> None:
        """Blocks on the disk where not `has_room`; never fails."""
        position, rest = self.end, memoryview(data)
        if self._memory is not None:
            position, kept = self._memory
            rest = memoryview(kept + rest)
            if len(rest) <= MEMORY or self.fault is not None:
                self._remember(position, rest)
                return
        while rest:
            try:
                written = self._write(rest, position)
            except (OSError, StorageError) as error:
                if self._drop_oldest(position):
                    continue
                self.fault = f"Output was dropped: {getattr(error, 'strerror', None) or error}"
                self._remember(position, rest)
                self._remove_files()
                return
            position, rest = position + written, rest[written:]
            if position >= self.end:
                self.end, self._memory = position, None

    def _remember(self, position: int, data: memoryview) -> None:
        """Keep the newest of ``data``, which stands at ``position``, in memory."""
        kept = bytes(data[-MEMORY:])
        end = position + len(data)
        self._memory = (end - len(kept), kept)
        self.start, self.end = end - len(kept), end

    def _write(self, data: memoryview, position: int) -> int:
        """Write what fits into the segment at ``position``; returns how much that was."""
        number, inside = divmod(position, self.segment)
        if self._file < 0:
            name = self._name(number)
            self._used = True
            self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        written = os.pwrite(self._file, data[: self.segment - inside], inside)
        if inside + written == self.segment:
            self._close_file()
            if position + written - self.start > self.segment * (SEGMENTS - 1):
                self._drop_oldest(position + written)
        return written

    def _drop_oldest(self, position: int) -> bool:
        """Give up the oldest segment, unless it is the one at ``position``; says whether it could."""
        number = self.start // self.segment
        if number >= position // self.segment:
            return False
        self.start = (number + 1) * self.segment
        with contextlib.suppress(OSError):
            Path(self._name(number)).unlink()
        return True

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """At most ``limit`` bytes from ``offset``, or from `start` where that has passed it by, and their
        offset. Empty at the end. Blocks on the disk where `on_disk`.
        """
        while True:
            if (memory := self._memory) is not None:
                start, data = memory
                offset = max(offset, start)
                return offset, data[offset - start : offset - start + limit]
            offset = max(offset, self.start)
            number, inside = divmod(offset, self.segment)
            size = min(limit, self.end - offset, self.segment - inside)
            if size <= 0:
                return offset, b""
            try:
                file = os.open(self._name(number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                if self._memory is None and self.start <= offset:
                    raise StorageError(
                        f"The file {self._name(number)} of this output was removed."
                    ) from error
                continue
            try:
                return offset, os.pread(file, size, inside)
            finally:
                os.close(file)

    def finish(self) -> None:
        """Nothing more will be appended."""
        self._close_file()

    def close(self) -> None:
        """Forget everything."""
        self._memory, self.start = (self.end, b""), self.end
        self._remove_files()

    def _remove_files(self) -> None:
        self._close_file()
        if self._used:
            for path in self.folder().glob(f"{self.name}.*"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _name(self, number: int) -> str:
        return f"{self.folder()}/{self.name}.{number}"

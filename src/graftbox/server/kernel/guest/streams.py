"""The kernel's stdout and stderr: what programs write straight to the file descriptors is part of the cell.

Whole characters, in order, and all of it before the cell counts as finished.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ipykernel.iostream import OutStream

_CHUNK = 64 * 1024
_PIECES = 256
"""Messages of one flush: the thread that sends them queues them for itself, and a thousand would block it."""
_ROUNDS = 256
"""Reads at the end of a cell: a program that writes without end can't hold it up."""


class Captured(OutStream):
    """A stream of ipykernel whose file descriptor is watched to the last byte."""

    def _setup_stream_redirects(self, name: str) -> None:
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        original = self._original_stdstream_fd = getattr(sys, name).fileno()
        self._original_stdstream_copy = os.dup(original)
        os.dup2(writing, original)
        os.close(writing)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._turn = threading.Lock()
        self.watch_fd_thread = threading.Thread(target=self._watch_pipe_fd, daemon=True)
        self.watch_fd_thread.start()

    def fileno(self) -> int:
        """For programs that write there: it leads to the cell too."""
        return int(self._original_stdstream_fd)

    def _flush_buffers(self) -> Iterator[tuple[Any, str]]:
        """In pieces, so that a flood of output waits here and not in the server's memory."""
        flushed: Iterator[tuple[Any, str]] = super()._flush_buffers()  # type: ignore[no-untyped-call]
        for parent, text in flushed:
            size = max(_CHUNK, len(text) // _PIECES)
            for start in range(0, len(text), size):
                yield parent, text[start : start + size]

    def settle(self) -> None:
        """Take all that was written to the file descriptor so far."""
        with self._turn:
            for _ in range(_ROUNDS):
                if not self._take():
                    return

    def _watch_pipe_fd(self) -> None:
        while True:
            select.select([self._reading], [], [])
            with self._turn:
                self._take()

    def _take(self) -> bool:
        """Whether there was something."""
        try:
            data = os.read(self._reading, _CHUNK)
        except BlockingIOError:
            return False
        if text := self._decoder.decode(data):
            with contextlib.suppress(Exception):
                self.write(text)
        return bool(data)

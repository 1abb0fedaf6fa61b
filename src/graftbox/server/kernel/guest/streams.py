"""The kernel's stdout and stderr: what programs write straight to the file descriptors is part of the cell.

Whole characters, in order, and all of it before the cell counts as finished.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import threading

from ipykernel.iostream import OutStream

_SETTLED = 2.0
_CHUNK = 64 * 1024


class Captured(OutStream):
    """A stream of ipykernel whose file descriptor is watched to the last byte."""

    def _setup_stream_redirects(self, name: str) -> None:
        self._reading, self._writing = os.pipe()
        original = self._original_stdstream_fd = getattr(sys, name).fileno()
        self._original_stdstream_copy = os.dup(original)
        os.dup2(self._writing, original)
        self._mark = b"\0\x1e" + os.urandom(16).hex().encode() + b"\x1e\0"
        self._settled = threading.Event()
        self.watch_fd_thread = threading.Thread(target=self._watch_pipe_fd, daemon=True)
        self.watch_fd_thread.start()

    def fileno(self) -> int:
        """For programs that write there: it leads to the cell too."""
        return int(self._original_stdstream_fd)

    def settle(self) -> None:
        """Wait until all that was written to the file descriptor so far has been taken."""
        self._settled.clear()
        with contextlib.suppress(OSError):
            os.write(self._writing, self._mark)
            self._settled.wait(_SETTLED)

    def _watch_pipe_fd(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = b""
        while True:
            rest += os.read(self._reading, _CHUNK)
            while self._mark in rest:
                text, _, rest = rest.partition(self._mark)
                self._take(decoder.decode(text, final=True))
                self._settled.set()
            keep = _begun(rest, self._mark)
            self._take(decoder.decode(rest[: len(rest) - keep]))
            rest = rest[len(rest) - keep :]

    def _take(self, text: str) -> None:
        if text:
            with contextlib.suppress(Exception):
                self.write(text)


def _begun(data: bytes, mark: bytes) -> int:
    """How many bytes at the end of ``data`` may be the beginning of ``mark``."""
    longest = min(len(mark) - 1, len(data))
    return next((length for length in range(longest, 0, -1) if data.endswith(mark[:length])), 0)

"""Shows on standard error how far a long step is; standard output stays for the answer."""

from __future__ import annotations

import sys
import time
from typing import TextIO

INTERVAL = 0.1


def say(message: str) -> None:
    """Prints a message on standard error, over a line that a `Status` has not ended."""
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}graftbox: {message}", file=sys.stderr)


class Status:
    """A `graftbox.bundle.progress.Progress`: one line per step, redrawn while it runs on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.what, self.total, self.amount = "", 0, 0
        self.started = self.drawn = 0.0

    def start(self, what: str, total: int) -> None:
        self.what, self.total, self.amount = what, total, 0
        self.started = time.monotonic()
        self.drawn = 0.0
        self._draw()

    def advance(self, amount: int) -> None:
        self.amount += amount
        self._draw()

    def done(self) -> None:
        seconds = time.monotonic() - self.started
        self._write(f"{self.what}: {seconds:.1f} s", "\n")

    def _draw(self) -> None:
        now = time.monotonic()
        if not self.live or now - self.drawn < INTERVAL:
            return
        self.drawn = now
        share = f" {100 * self.amount // self.total} %" if self.total > 1 else ""
        self._write(f"{self.what} …{share}", "")

    def _write(self, text: str, end: str) -> None:
        start = "\r\x1b[K" if self.live else ""
        self.stream.write(f"{start}graftbox: {text}{end}")
        self.stream.flush()

"""What a long step tells whoever is watching; the command line draws it, the default says nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Calls come from one thread at a time; ``start`` begins a new bar and ``done`` ends it."""

    def start(self, what: str, total: int) -> None:
        """``what`` begins; it ends after ``total`` bytes (or steps)."""

    def advance(self, amount: int) -> None:
        """``amount`` more bytes are there; negative when an attempt is thrown away."""

    def done(self) -> None:
        """What was started has ended."""


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, what: str, total: int) -> None: ...

    def advance(self, amount: int) -> None: ...

    def done(self) -> None: ...

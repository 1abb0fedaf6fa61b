"""When to ask a registry again, and how long to wait before: pure decisions, no clock and no sleep."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime

from graftbox.errors import TransportError

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
"""Answers that may be another one a moment later."""


class BrokenError(TransportError):
    """A connection that broke, stalled or timed out: asking again may help.

    ``unreachable`` if there was none: a host that has never answered is not asked again.
    """

    def __init__(
        self,
        message: str,
        unreachable: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status, retry_after)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Patience:
    """How often and how long; times in seconds."""

    tries: int = 6
    first: float = 0.25
    """The first pause; each further one is twice as long, up to ``longest``."""
    longest: float = 20.0
    longest_asked: float = 120.0
    """A ``Retry-After`` beyond this ends the attempt instead of blocking for it."""
    stall: float = 30.0
    """In which a body must bring ``stall_bytes``, else the connection counts as broken."""
    stall_bytes: int = 4096

    def pause(self, attempt: int, asked: float | None = None) -> float | None:
        """How long to wait after attempt number ``attempt`` (from 1) failed; None to give up.

        Between half and the whole of an exponential pause, so that many clients do not come back at once;
        never less than the server has asked for.
        """
        if attempt >= self.tries or (asked is not None and asked > self.longest_asked):
            return None
        full = min(self.first * 2.0 ** (attempt - 1), self.longest)
        own = full * (0.5 + random.random() / 2)
        return own if asked is None else max(asked + own / 4, own)


PATIENCE = Patience()


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110 section 10.2.3): a number or a date."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())

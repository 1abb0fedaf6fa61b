"""How long a registry is waited for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from graftbox.image.retry import Patience, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("17", 17.0),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_pauses_double_with_jitter_up_to_a_limit_and_end() -> None:
    patience = Patience(tries=5, first=1, longest=3)
    for attempt, full in enumerate((1, 2, 3, 3), 1):
        pauses = [patience.pause(attempt) for _ in range(50)]
        assert all(pause is not None and full / 2 <= pause <= full for pause in pauses)
        assert len(set(pauses)) > 10
    assert patience.pause(5) is None


def test_no_less_is_waited_than_was_asked_for_and_too_much_not_at_all() -> None:
    patience = Patience(longest_asked=60)
    pause = patience.pause(1, 7)
    assert pause is not None
    assert pause >= 7
    assert patience.pause(1, 61) is None

from __future__ import annotations

import pytest

from graftbox.server.frames import frame, length, take


def test_frames_come_out_as_they_went_in_however_they_were_cut() -> None:
    sent = [(b"c", b""), (b"m", b"one\0two"), (b"o", bytes(70_000))]
    stream = b"".join(frame(*each) for each in sent)
    inbox, found = bytearray(), []
    for start in range(0, len(stream), 999):
        inbox += stream[start : start + 999]
        found += take(inbox, 1 << 20)
    assert found == sent
    assert not inbox


def test_the_head_tells_the_length() -> None:
    assert length(frame(b"x", b"12345")[:5]) == 10


def test_a_frame_that_is_too_large_is_refused_before_it_has_come() -> None:
    with pytest.raises(ValueError, match="are allowed"):
        take(bytearray(frame(b"x", bytes(100))[:5]), 50)

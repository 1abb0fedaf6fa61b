from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from graftbox.server.mirror import AT_ONCE, KEPT, WAITING, Mirror


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_output_is_shown_as_it_was(pipe: tuple[int, int]) -> None:
    mirror = Mirror(pipe[1])
    assert mirror.delay() is None
    mirror.add(b"one\n")
    mirror.add(b"two\n")
    assert mirror.delay() == 0
    mirror.write()
    assert os.read(pipe[0], 100) == b"one\ntwo\n"
    assert mirror.delay() is None


def test_what_tmux_could_not_draw_is_skipped_from_the_start_of_a_line(pipe: tuple[int, int]) -> None:
    mirror = Mirror(pipe[1])
    for number in range(WAITING // 10 + 1):
        mirror.add(b"%09d\n" % number)
    assert len(mirror.backlog) <= KEPT
    assert len(mirror.backlog) % 10 == 0
    assert mirror.backlog.endswith(b"%09d\n" % (WAITING // 10))


def test_a_large_backlog_is_shown_piece_by_piece(pipe: tuple[int, int]) -> None:
    mirror = Mirror(pipe[1])
    mirror.add(bytes(3 * AT_ONCE))
    mirror.write()
    assert len(os.read(pipe[0], WAITING)) == AT_ONCE
    assert mirror.delay()


def test_a_full_terminal_loses_nothing(pipe: tuple[int, int]) -> None:
    mirror = Mirror(pipe[1])
    while True:
        try:
            os.write(pipe[1], bytes(4096))
        except BlockingIOError:
            break
    mirror.add(b"later")
    mirror.write()
    assert mirror.backlog == b"later"

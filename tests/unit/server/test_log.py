"""The ring that a session's log is kept in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftbox.server import ring
from graftbox.server.ring import Ring


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    number = ring.create(str(tmp_path / "log"), 2 * ring.LEAST)
    yield number
    os.close(number)


def numbers(begin: int, end: int) -> bytes:
    """Bytes ``begin`` to ``end`` of an endless text."""
    first = begin // 8
    return b"".join(b"%07d\n" % n for n in range(first, end // 8 + 1))[begin - 8 * first : end - 8 * first]


def test_what_is_written_is_read_wherever_the_ring_begins_anew(descriptor: int) -> None:
    writer = Ring(descriptor, 0)
    for step in (100, 4096, 99_999, 1_000_000, 3_000_001, 7, 2_097_152):
        begin = writer.end
        writer.write(numbers(begin, begin + step))
        oldest = max(0, writer.end - 2 * ring.LEAST)
        for offset in (oldest, (oldest + writer.end) // 2, writer.end - 5):
            data, start = ring.read(descriptor, offset, writer.end - offset)
            assert start == oldest
            assert data == numbers(offset, writer.end)


def test_the_next_writer_goes_on_where_the_last_one_ended(descriptor: int) -> None:
    Ring(descriptor, 0).write(numbers(0, 1000))
    writer = Ring(descriptor, 1000)
    writer.write(numbers(1000, 3_000_000))
    offset = writer.end - ring.LEAST
    assert ring.read(descriptor, offset, ring.LEAST)[0] == numbers(offset, writer.end)


def test_a_reader_learns_that_what_it_wanted_was_overwritten(descriptor: int) -> None:
    writer = Ring(descriptor, 0)
    writer.write(numbers(0, 5_000_000))
    assert ring.read(descriptor, 10, 100)[1] == 5_000_000 - 2 * ring.LEAST


FULL = """
import resource, sys
from graftbox.server import ring
descriptor = ring.create(sys.argv[1], 64 * ring.LEAST)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
writer = ring.Ring(descriptor, 0)
text = b"".join(b"%07d\\n" % n for n in range(1_000_000))
for begin in range(0, len(text), 60_000):
    writer.write(text[begin : begin + 60_000])
assert writer.end == len(text)
data, start = ring.read(descriptor, writer.end - ring.LEAST, ring.LEAST)
assert data == text[-ring.LEAST :], (data[:20], text[-ring.LEAST :][:20])
assert writer.end - start == writer.capacity == 2_000_000 - ring.HEADER, (start, writer.capacity)
"""


def test_a_disk_that_fills_up_makes_the_log_shorter_and_breaks_nothing(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FULL, str(tmp_path / "log")]
    subprocess.run(words, check=True, env={"PYTHONPATH": str(Path(ring.__file__).parents[2])})


def test_without_any_room_on_disk_the_log_is_in_memory() -> None:
    descriptor = ring.create("/nowhere/log", 64 * ring.LEAST)
    writer = Ring(descriptor, 0)
    writer.write(numbers(0, 3_000_000))
    data, start = ring.read(descriptor, 3_000_000 - 1000, 1000)
    assert data == numbers(3_000_000 - 1000, 3_000_000)
    assert start == 3_000_000 - ring.LEAST
    os.close(descriptor)

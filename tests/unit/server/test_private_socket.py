"""What a keeper and its shell say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from graftbox.server.private_socket import PrivateSocket


@pytest.fixture
def private() -> Iterator[PrivateSocket]:
    found = PrivateSocket()
    yield found
    os.close(found.descriptor)


def test_lines_wait_until_the_shell_has_read_those_before(private: PrivateSocket) -> None:
    lines = os.urandom(4 * 1024 * 1024)
    private.give(lines)
    assert private.lines
    read = b""
    while len(read) < len(lines):
        read += os.read(private.theirs, 1 << 20)
        private.feed()
    assert (read, private.unread) == (lines, False)
    private.give(b"\n")
    assert private.unread
    os.close(private.theirs)


def test_reports_come_whole_however_they_were_cut(private: PrivateSocket) -> None:
    sent = [[b"E%d" % number, b"0", b"", b"/tmp", b"x" * number] for number in range(5)]
    stream = b"".join(b"".join(field + b"\0" for field in report) for report in sent)
    found = []
    for at in range(0, len(stream), 7):
        os.write(private.theirs, stream[at : at + 7])
        found += private.reports()
    assert found == sent
    os.close(private.theirs)


def test_a_socket_that_every_process_has_closed_is_quiet(private: PrivateSocket) -> None:
    assert private.reports() == []
    os.close(private.theirs)
    assert private.reports() == []
    assert private.orphaned
    assert private.unread
    with pytest.raises(BlockingIOError):
        os.read(private.descriptor, 1)

"""A keeper and the servers that it has, one after the other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftbox.server.frames import frame, take
from graftbox.server.uplink import Uplink


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Uplink, socket.socket]]:
    """A keeper's connection, and the server at its other end; ``next`` in the folder is where others call."""
    ours, theirs = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "next"))
    listener.listen()
    log = os.open(tmp_path, os.O_RDONLY)
    uplink = Uplink(ours, listener, log)
    yield uplink, theirs
    for each in (ours, theirs, listener):
        each.close()
    uplink.hang_up()
    os.close(log)


def heard(server: socket.socket) -> list[tuple[bytes, bytes]]:
    return take(bytearray(server.recv(65536)), 65536)


def called(uplink: Uplink) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.connect(uplink.listener.getsockname())
    return server


def test_a_server_gets_the_log_with_the_first_words(ends: tuple[Uplink, socket.socket]) -> None:
    uplink, server = ends
    uplink.hello(b"1 2 7 0", 7)
    said, (log,), _, _ = socket.recv_fds(server, 100, 1)
    assert said == frame(b"h", b"1 2 7 0")
    assert os.path.sameopenfile(log, uplink.log)
    os.close(log)


def test_how_far_the_log_is_is_said_once_until_it_was_heard(ends: tuple[Uplink, socket.socket]) -> None:
    uplink, server = ends
    uplink.hello(b"", 0)
    server.recv(100)
    for end in (10, 20, 30):
        uplink.flush(end)
    assert heard(server) == [(b"o", b"10")]
    assert uplink.lag(30) == 30
    uplink.acknowledge(10)
    uplink.flush(30)
    assert (heard(server), uplink.lag(30)) == ([(b"o", b"30")], 20)


def test_the_next_server_is_told_what_the_one_before_was(ends: tuple[Uplink, socket.socket]) -> None:
    uplink, first = ends
    uplink.hello(b"", 0)
    first.recv(100)
    uplink.remember(b"m", b"forgotten")
    uplink.forget()
    uplink.remember(b"m", b"kept")
    uplink.send(b"g", b"5")
    uplink.flush(0)
    assert heard(first) == [(b"m", b"forgotten"), (b"m", b"kept"), (b"g", b"5")]
    with called(uplink) as second:
        assert uplink.take_over(uplink.accept(), b"again", 0)
        uplink.flush(0)
        # What comes with a descriptor is received apart from what follows.
        assert heard(second) + heard(second) == [(b"h", b"again"), (b"m", b"kept")]
        assert first.recv(1) == b""


def test_what_a_server_sent_before_it_died_is_there(ends: tuple[Uplink, socket.socket]) -> None:
    uplink, server = ends
    uplink.hello(b"", 0)
    assert uplink.receive() is None
    server.sendall(frame(b"c", b"1\0true") + frame(b"k", b"x")[:3])
    server.recv(100)
    server.close()
    assert uplink.receive() == [(b"c", b"1\0true")]
    assert uplink.receive() is None
    assert uplink.connection is None
    assert uplink.descriptor is None


def test_without_a_server_only_what_is_remembered_is_kept(ends: tuple[Uplink, socket.socket]) -> None:
    uplink, _ = ends
    uplink.hang_up()
    uplink.send(b"g", b"5")
    uplink.remember(b"m", b"kept")
    uplink.flush(99)
    assert (bytes(uplink.outbox), uplink.remembered, uplink.lag(99)) == (b"", 1, 0)


def test_one_who_calls_and_is_gone_is_no_server(ends: tuple[Uplink, socket.socket]) -> None:
    uplink, _ = ends
    with called(uplink) as hasty:
        hasty.sendall(frame(b"x", b""))
    assert not uplink.take_over(uplink.accept(), b"", 0)
    assert uplink.receive() == [(b"x", b"")]

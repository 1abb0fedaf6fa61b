"""Kept connections: used again while they are good, and never longer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from graftbox.image import channel
from graftbox.image.pool import BREAKS, Pool
from graftbox.image.stream import SlowError, UnreachableError
from graftbox.image.tls import usual

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def _received(link: socket.socket) -> bytes:
    """What comes; nothing at the end, also where a client hangs up on what it has not read."""
    with suppress(ConnectionError):
        return link.recv(1 << 16)
    return b""


class Peer:
    """A server that answers each request with the next of ``answers``, and hangs up after an empty one."""

    def __init__(self, listener: socket.socket) -> None:
        self.answers: list[bytes] = []
        self.connections = 0
        self.heads: list[bytes] = []
        self._listener = listener
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        threads = []
        while True:
            try:
                link = self._listener.accept()[0]
            except OSError:
                break
            self.connections += 1
            threads.append(threading.Thread(target=self._speak, args=(link,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _speak(self, link: socket.socket) -> None:
        with link:
            while head := _received(link):
                self.heads.append(head)
                answer = self.answers.pop(0) if self.answers else OK
                if not answer:
                    return
                link.sendall(answer)
                if b"Connection: close" in answer:
                    link.shutdown(socket.SHUT_WR)
                    # Closing with something unread would be a reset, which may overtake the answer.
                    while _received(link):
                        pass
                    return


@pytest.fixture
def peer() -> Iterator[Peer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Peer(listener)
        running.thread.start()
        try:
            yield running
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            running.thread.join()


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(usual, "test", kept=2, use_proxies=False, patience=60)
    yield made
    made.close()


@pytest.fixture
def ask(peer: Peer, pool: Pool) -> Callable[..., bytes]:
    port = peer._listener.getsockname()[1]

    def asked(method: str = "GET", content: channel.Content = None, **headers: str) -> bytes:
        response = pool.send(method, f"http://127.0.0.1:{port}/x", headers, content)
        try:
            return b"".join(response.pieces())
        finally:
            response.close()

    return asked


def test_one_connection_serves_many_requests(peer: Peer, ask: Callable[..., bytes]) -> None:
    assert [ask() for _ in range(5)] == [b"ok"] * 5
    assert peer.connections == 1


def test_a_request_and_its_small_body_are_one_write(peer: Peer, ask: Callable[..., bytes]) -> None:
    ask("PUT", b"body")
    (head,) = peer.heads
    assert head.endswith(b"\r\n\r\nbody")
    assert b"Content-Length: 4" in head


def test_a_server_that_has_hung_up_is_connected_to_again(peer: Peer, ask: Callable[..., bytes]) -> None:
    peer.answers = [OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK]
    assert [ask(), ask()] == [b"ok", b"ok"]
    assert peer.connections == 2


def test_an_answer_that_never_comes_or_breaks_off_is_a_break(peer: Peer, ask: Callable[..., bytes]) -> None:
    peer.answers = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nok",
        b"no HTTP\r\n\r\n",
    ]
    for _ in range(3):
        with pytest.raises(BREAKS):
            ask()
    assert ask() == b"ok"


def test_a_server_that_says_nothing_is_given_up(peer: Peer) -> None:
    peer.answers = [b"HTTP/1.1 100 Continue\r\n\r\n"]
    hasty = Pool(usual, "test", kept=2, use_proxies=False, patience=0.5)
    with pytest.raises(SlowError):
        hasty.send("GET", f"http://127.0.0.1:{peer._listener.getsockname()[1]}/x", {}, None)
    hasty.close()


def test_an_answer_before_the_body_is_read_counts(peer: Peer, ask: Callable[..., bytes]) -> None:
    peer.answers = [b"HTTP/1.1 413 Too large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"]

    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 100_000

    assert ask("PUT", endless(), **{"Transfer-Encoding": "chunked"}) == b"big"


def test_old_connections_are_closed_and_new_ones_made(
    peer: Peer, ask: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "IDLE", -1.0)
    assert [ask(), ask()] == [b"ok", b"ok"]
    assert peer.connections == 2


def test_no_more_than_a_few_are_kept(peer: Peer, pool: Pool) -> None:
    url = f"http://127.0.0.1:{peer._listener.getsockname()[1]}/x"
    under_way = [pool.send("GET", url, {}, None) for _ in range(5)]
    for response in under_way:
        b"".join(response.pieces())
        response.close()
    assert peer.connections == 5
    assert len(pool._idle) == 2


def test_a_unix_socket_is_reached_whatever_the_host(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        pool = Pool(usual, "test", 2, False, socket=path)
        with pytest.raises(UnreachableError):
            pool.send("GET", "http://docker/info", {}, None)
        listener.bind(path)
        listener.listen()
        running = Peer(listener)
        running.thread.start()
        response = pool.send("GET", "http://docker/info", {}, None)
        assert b"".join(response.pieces()) == b"ok"
        response.close()
        pool.close()
        listener.shutdown(socket.SHUT_RDWR)
        running.thread.join()
    assert b"Host: docker" in running.heads[0]

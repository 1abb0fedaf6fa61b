"""The HTTP host with small ASGI applications: WebSockets, streams, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from graftbox.server import websocket
from graftbox.server.host import Host
from graftbox.server.http import Application, Message, Receive, Send

Serve = Callable[[Application], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves an application on loopback, in a thread with a loop of its own; returns the port."""
    loops: list[tuple[asyncio.AbstractEventLoop, threading.Thread, Host]] = []

    def go(application: Application) -> int:
        loop = asyncio.new_event_loop()
        host = Host(application, lambda path: path.startswith("/ws"))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        asyncio.run_coroutine_threadsafe(host.listen("127.0.0.1", 0, None), loop).result(60)
        loops.append((loop, thread, host))
        assert host.port is not None
        return host.port

    yield go
    for loop, thread, host in loops:
        asyncio.run_coroutine_threadsafe(host.close(), loop).result(60)
        asyncio.run_coroutine_threadsafe(_settled(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


async def _settled() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=60)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    assert scope["type"] == "websocket"
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4000, "reason": "you said so"})
        else:
            await send({**message, "type": "websocket.send"})


def joined(port: int, path: str = "/ws", **more: Any) -> ClientConnection:
    client: ClientConnection = connect(
        f"ws://127.0.0.1:{port}{path}", compression=None, max_size=None, **more
    )
    return client


def test_messages_of_any_size_come_back_as_they_were(serve: Serve) -> None:
    with joined(serve(echo), subprotocols=["one", "two"]) as client:
        assert client.subprotocol == "one"
        for message in ("", "é", b"", b"\x00\xff", "x" * 100_000, bytes(2_000_000)):
            client.send(message)
            assert client.recv(60) == message
        client.send(iter(["a", "b", "c"]))
        assert client.recv(60) == "abc"


def test_pings_are_answered_and_close_codes_go_both_ways(serve: Serve) -> None:
    port = serve(echo)
    with joined(port) as client:
        assert client.ping().wait(60)
        client.close(4001, "enough")
    with joined(port) as client:
        client.send("bye")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(60)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "you said so")


def test_a_message_beyond_the_limit_closes_with_1009(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_MESSAGE", 1000)
    with joined(serve(echo)) as client:
        client.send(bytes(1001))
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(60)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


def test_a_client_that_does_not_answer_pings_is_dropped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "PING_SECONDS", 0.05)
    ended = threading.Event()

    async def waits(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive()) == {"type": "websocket.disconnect", "code": 1006}
        ended.set()

    with socket.create_connection(("127.0.0.1", serve(waits)), timeout=60) as client:
        client.sendall(HANDSHAKE)
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        assert ended.wait(60)


HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)


@pytest.mark.parametrize(
    "handshake",
    [
        HANDSHAKE.replace(b"version: 13", b"version: 8"),
        HANDSHAKE.replace(b"connection: Upgrade\r\n", b""),
        HANDSHAKE.replace(b"sec-websocket-key", b"x-key"),
        HANDSHAKE.replace(b"host: x", b"host: \xff"),
    ],
)
def test_a_broken_handshake_gets_400(serve: Serve, handshake: bytes) -> None:
    with socket.create_connection(("127.0.0.1", serve(echo)), timeout=60) as client:
        client.sendall(handshake)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_frames_that_are_none_close_the_connection(serve: Serve) -> None:
    with socket.create_connection(("127.0.0.1", serve(echo)), timeout=60) as client:
        client.sendall(HANDSHAKE + b"\xff\xff\xff\xff")
        received = b""
        while chunk := client.recv(1000):
            received += chunk
        frame = received.partition(b"\r\n\r\n")[2]
        assert frame[:1] + frame[2:4] == b"\x88" + struct.pack("!H", 1002)


def test_a_refused_websocket_gets_an_http_answer(serve: Serve) -> None:
    async def refuses(scope: Message, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b'{"detail":"no"}'})

    with pytest.raises(InvalidStatus) as caught:
        joined(serve(refuses))
    assert caught.value.response.status_code == 404
    assert json.loads(caught.value.response.body or b"") == {"detail": "no"}


def test_a_client_that_reads_slowly_holds_the_sender_back_not_the_memory(serve: Serve) -> None:
    sent = 0

    async def floods(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(1000):
            await send({"type": "websocket.send", "bytes": bytes(100_000)})
            sent += 1

    with joined(serve(floods)) as client:
        time.sleep(0.3)
        assert sent < 500
        for _ in range(1000):
            assert client.recv(60) == bytes(100_000)


def test_a_handler_that_takes_nothing_holds_the_client_back(serve: Serve) -> None:
    go = threading.Event()
    sizes: list[int] = []

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.to_thread(go.wait, 60)
        while (message := await receive())["type"] == "websocket.receive":
            sizes.append(len(message["bytes"]))

    with joined(serve(slow)) as client:

        def fill() -> None:
            for _ in range(200):
                client.send(bytes(100_000))

        sender = threading.Thread(target=fill)
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()
        go.set()
        sender.join(60)
    assert sizes == [100_000] * 200


def test_an_application_that_fails_closes_with_1011(serve: Serve) -> None:
    async def fails(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise ValueError("a mistake")

    with joined(serve(fails)) as client:
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(60)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1011


def ask(port: int, data: bytes, *, more: bytes = b"") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(data)
        received = b""
        if more:
            received = client.recv(1000)
            client.sendall(more)
        while chunk := client.recv(65536):
            received += chunk
        return received


async def answering(scope: Message, receive: Receive, send: Send) -> None:
    body = (await receive())["body"] if scope["path"] == "/read" else b"unread"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def test_a_client_that_expects_100_is_asked_only_when_its_body_is_wanted(serve: Serve) -> None:
    port = serve(answering)
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
    head += b"connection: close\r\ncontent-length: 2\r\n\r\n"
    answer = ask(port, head % b"/read", more=b"hi")
    assert answer.startswith(b"HTTP/1.1 100 ")
    assert answer.endswith(b"\r\n\r\nhi")
    assert ask(port, head % b"/refuse").startswith(b"HTTP/1.1 200 ")


def test_head_gets_the_head_alone(serve: Serve) -> None:
    answer = ask(serve(answering), b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b"content-length: 6" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


def test_a_refused_upload_still_gets_its_answer(serve: Serve) -> None:
    port = serve(answering)
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head + bytes(2_000_000))
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_application_learns_that_its_client_has_gone(serve: Serve, how: str) -> None:
    gone = threading.Event()

    async def waits(scope: Message, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    client = socket.create_connection(("127.0.0.1", serve(waits)), timeout=60)
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi")
    time.sleep(0.05)
    assert not gone.is_set()
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert gone.wait(60)


def test_a_stream_to_a_client_that_has_gone_ends(serve: Serve) -> None:
    ended = threading.Event()

    async def streams(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
        except ConnectionResetError:
            ended.set()

    client = socket.create_connection(("127.0.0.1", serve(streams)), timeout=60)
    client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.recv(10)
    client.close()
    assert ended.wait(60)


def test_small_messages_in_a_row_do_not_wait_for_one_another() -> None:
    async def delays() -> int:
        host = Host(echo)
        await host.listen("127.0.0.1", 0, None)
        _, writer = await asyncio.open_connection("127.0.0.1", host.port)
        while not host.connections:
            await asyncio.sleep(0)
        (connection,) = host.connections
        link = connection.transport.get_extra_info("socket")
        try:
            return int(link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        finally:
            writer.close()
            await host.close()

    assert asyncio.run(delays()) == 1

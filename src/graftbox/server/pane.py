"""The server's side of a keeper (keeper.py): frames of a letter, a length and a payload."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graftbox.server.frames import HEAD, frame, length, take

HELLO_SECONDS = 30.0
LARGEST = 16 * 1024 * 1024
"""Bytes of a frame."""


@dataclass(frozen=True)
class Program:
    """What a shell is: ``argv`` (whose first word is the file), where, with which variables and size."""

    argv: tuple[str, ...]
    cwd: str
    environment: tuple[bytes, ...]
    columns: int
    rows: int

    def packed(self, nonce: str, end: int) -> bytes:
        """As the keeper reads it: a length, then NUL-separated fields."""
        words = [os.fsencode(word) for word in (self.argv[0], *self.argv)]
        numbers = (end, self.columns, self.rows)
        head = (nonce.encode(), *(str(number).encode() for number in numbers), os.fsencode(self.cwd))
        body = b"\0".join((*head, str(len(words)).encode(), *words, *self.environment))
        return len(body).to_bytes(8, "big") + body


class Listener(Protocol):
    """What the owner of a pane hears. ``offset`` and ``end`` count the log's bytes."""

    def attached(self, pane: Pane) -> None: ...
    def marked(self, phase: str, number: int, offset: int) -> None: ...
    def reported(self, fields: Sequence[bytes]) -> None: ...
    def advanced(self, end: int) -> None: ...
    def silent(self) -> None:
        """The shell takes no commands any more, or no longer says how they end."""

    def died(self, status: int | None) -> None:
        """The exit status, minus the number of the signal, or None when the terminal is gone."""


@dataclass(frozen=True)
class Hello:
    """A keeper's introduction: process ids, the log's descriptor and end, the present command's number."""

    shell: int
    keeper: int
    end: int
    number: int
    descriptor: int


class Pane(asyncio.Protocol):
    """A connection to one keeper; `listener` is told of everything, death once."""

    def __init__(self, hello: Hello, listener: Listener) -> None:
        self.hello = hello
        self.listener = listener
        self.dead = False
        self.inbox = bytearray()
        self.groups: list[asyncio.Future[int]] = []
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.listener.attached(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        for future in self.groups:
            if not future.done():
                future.set_result(0)
        self._died(None)

    def data_received(self, data: bytes) -> None:
        self.inbox += data
        try:
            for kind, payload in take(self.inbox, LARGEST):
                self._frame(kind, payload)
        except ValueError:
            self.transport.abort()

    def _frame(self, kind: bytes, payload: bytes) -> None:
        if kind == b"g":
            if self.groups and not (future := self.groups.pop(0)).done():
                future.set_result(int(payload))
        elif self.dead:
            return
        elif kind == b"o":
            self.listener.advanced(int(payload))
        elif kind == b"m":
            mark, _, offset = payload.partition(b" ")
            self.listener.marked(mark[:1].decode(), int(mark[1:]), int(offset))
        elif kind == b"r":
            self.listener.reported(payload.split(b"\0"))
        elif kind == b"s":
            self.listener.silent()
        elif kind == b"d":
            status, _, end = payload.partition(b" ")
            self.listener.advanced(int(end))
            self._died(int(status))

    def _died(self, status: int | None) -> None:
        if not self.dead:
            self.dead = True
            self.listener.died(status)

    def _send(self, kind: bytes, payload: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(frame(kind, payload))

    def command(self, number: int, lines: bytes) -> None:
        self._send(b"c", b"%d\0%s" % (number, lines))

    def acknowledge(self, end: int) -> None:
        """The terminal may go on: everything up to ``end`` has been heard of."""
        self._send(b"a", b"%d" % end)

    def type(self, keys: bytes) -> None:
        self._send(b"k", keys)

    def resize(self, columns: int, rows: int) -> None:
        self._send(b"w", b"%d %d" % (columns, rows))

    async def foreground(self) -> int:
        """The terminal's foreground process group, 0 when there is none."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            return 0
        self.groups.append(future)
        self._send(b"g", b"")
        return await future

    def close(self) -> None:
        """End the keeper, and with it the terminal; ``gone`` resolves when it has ended."""
        self.dead = True
        self._send(b"x", b"")


async def call(path: Path) -> tuple[socket.socket, Hello]:
    """Connect to the keeper that waits at ``path``; raises `OSError` or `TimeoutError`.

    The log's descriptor in the hello belongs to the caller.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, str(path))
        return connection, await receive_hello(connection)
    except BaseException:
        connection.close()
        raise


async def connected(connection: socket.socket, hello: Hello, listener: Listener) -> Pane:
    """Hear what the keeper at the other end says from now on."""
    pane = Pane(hello, listener)
    await asyncio.get_running_loop().create_connection(lambda: pane, sock=connection)
    return pane


async def receive_hello(connection: socket.socket) -> Hello:
    """A keeper's first frame; raises `OSError` or `TimeoutError`."""
    async with asyncio.timeout(HELLO_SECONDS):
        await _readable(connection)
        head, descriptors, _, _ = socket.recv_fds(connection, HEAD, 1)
        try:
            loop = asyncio.get_running_loop()
            size = length(head) - HEAD
            payload = b""
            while len(head) == HEAD and len(payload) < size:
                piece = await loop.sock_recv(connection, size - len(payload))
                if not piece:
                    break
                payload += piece
            numbers = [int(word) for word in payload.split()]
            if head[:1] != b"h" or len(numbers) != 4 or not descriptors:
                raise ConnectionError("the keeper has gone")
            shell, keeper, end, number = numbers
            return Hello(shell, keeper, end, number, descriptors[0])
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, settle)
    try:
        await ready
    finally:
        loop.remove_reader(connection)

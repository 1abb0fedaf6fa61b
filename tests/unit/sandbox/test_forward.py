from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from graftbox.errors import UsageError
from graftbox.sandbox.forward import forwarding
from graftbox.sandbox.sockets import short_path


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says back, after the other side has ended, what it said."""
    writer.write(await reader.read())
    writer.close()


def beside(path: Path, work: Callable[[int], Awaitable[None]]) -> None:
    async def run() -> None:
        server = await asyncio.start_unix_server(echo, path)
        async with server, forwarding(path, 0) as chosen:
            await work(chosen)

    asyncio.run(run())


def test_what_is_sent_comes_to_the_socket_and_back(tmp_path: Path) -> None:
    async def work(port: int) -> None:
        async def one(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"%d" % number * 300_000)
            writer.write_eof()
            assert await reader.read() == b"%d" % number * 300_000
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(one(number) for number in range(5)))

    with short_path(tmp_path / "socket") as path:
        beside(Path(path), work)


def test_a_sandbox_that_is_gone_ends_the_connection(tmp_path: Path) -> None:
    async def run() -> None:
        async with forwarding(tmp_path / "none", 0) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(EOFError):
                await reader.readexactly(1)
            writer.transport.abort()

    asyncio.run(run())


def test_a_port_in_use_is_an_error_that_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with forwarding(tmp_path / "none", 0) as port:
            with pytest.raises(UsageError, match=f"Port {port} can't be used"):
                async with forwarding(tmp_path / "none", port):
                    pass

    asyncio.run(run())

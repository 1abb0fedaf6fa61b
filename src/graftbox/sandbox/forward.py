"""A loopback port of this machine that leads to a sandbox's Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from graftbox.errors import UsageError
from graftbox.sandbox.sockets import short_path

_CHUNK = 256 * 1024


@contextlib.asynccontextmanager
async def forwarding(path: Path, port: int) -> AsyncIterator[int]:
    """Forwards connections to ``127.0.0.1:port`` while the block runs. Yields the port; 0 is any."""
    serving: set[asyncio.Task[None]] = set()
    with short_path(path) as address:

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(serve(reader, writer))
            serving.add(task)
            task.add_done_callback(serving.discard)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                theirs, ours = await asyncio.open_unix_connection(address)
            except OSError:
                writer.transport.abort()
                return
            try:
                await asyncio.gather(_copy(reader, ours), _copy(theirs, writer))
            finally:
                ours.close()
                writer.close()

        try:
            server = await asyncio.start_server(begin, "127.0.0.1", port)
        except OSError as error:
            raise UsageError(f"Port {port} can't be used: {error.strerror}. Choose another one.") from error
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; the other one is then told that nothing more comes."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()

"""The link to a kernel on the base image's own Python: lines of JSON over a socket pair.

Not Jupyter's protocol, because that would need ZeroMQ, tornado and more inside an interpreter of any version
and C library, and nothing may be installed there. ``guest/foreign.py`` is the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any

from graftbox.server.kernel.cell import Cell, Clear, Data, Ended, Event, Stream, Trouble

_LINE = 64 * 1024 * 1024
"""Bytes of the longest message: one picture."""
_LAST_WORDS = 2.0


class PipeLink:
    """``folder`` is for the kernel's own files; it is removed with the link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ours, self._theirs = socket.socketpair()
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._cells: dict[int, Cell] = {}
        self._count = 0

    @property
    def arguments(self) -> list[str]:
        return [str(self.folder), str(self._theirs.fileno())]

    @property
    def files(self) -> list[int]:
        return [self._theirs.fileno()]

    async def open(self) -> None:
        self._theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=self._ours, limit=_LINE)
        if not await reader.readline():
            await asyncio.Event().wait()  # its end is noticed elsewhere
        self._listening = asyncio.get_running_loop().create_task(self._listen(reader))

    def send(self, cell: Cell, *, cwd: str | None = None, silent: bool = False) -> None:
        assert self._writer is not None
        self._count += 1
        self._cells[self._count] = cell
        request = {"id": self._count, "code": cell.code, "cwd": cwd, "silent": silent}
        self._writer.write(json.dumps(request).encode() + b"\n")

    async def drain(self) -> None:
        if self._listening is not None:
            await asyncio.wait({self._listening}, timeout=_LAST_WORDS)

    def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        self._theirs.close()
        if self._writer is not None:
            self._writer.close()
        else:
            self._ours.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                message = json.loads(line)
                cell = self._cells.get(message["id"])
                if cell is None:
                    continue
                if message["kind"] == "update":
                    cell.update(Data(message["data"], display_id=message["display_id"]))
                elif message["kind"] == "done":
                    self._cells.pop(message["id"]).end(Ended(message["status"], message["cwd"]))
                else:
                    cell.add(_event(message))


def _event(message: dict[str, Any]) -> Event:
    match message["kind"]:
        case "stream":
            return Stream(message["name"], message["text"])
        case "result" | "display":
            return Data(message["data"], message["kind"] == "result", message.get("display_id"))
        case "error":
            return Trouble(message["name"], message["value"], message["traceback"])
        case _:
            return Clear(bool(message.get("wait")))

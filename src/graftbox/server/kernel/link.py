"""What a kernel speaks: cells go out, outputs and ends come back. One link per kernel process."""

from __future__ import annotations

from typing import Protocol

from graftbox.server.kernel.cell import Cell


class Link(Protocol):
    """Made before its process is started; the process gets `arguments` and inherits the `files`."""

    @property
    def arguments(self) -> list[str]: ...

    @property
    def files(self) -> list[int]: ...

    async def open(self) -> None:
        """Returns when the kernel takes cells; cancelled when its process ends before that."""

    def send(self, cell: Cell, *, cwd: str | None = None, silent: bool = False) -> None:
        """Have the kernel run the cell, in the folder ``cwd`` from now on; its events go to the cell."""

    async def drain(self) -> None:
        """Take what a process that has ended said last."""

    def close(self) -> None: ...

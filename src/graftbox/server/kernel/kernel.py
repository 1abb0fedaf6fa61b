"""One kernel: a process that runs cells one after the other, started anew when it has died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from graftbox.errors import UnsupportedError
from graftbox.server.kernel.cell import Cell, Ended
from graftbox.server.kernel.link import Link
from graftbox.server.kernel.process import Plan, Process, how_it_ended

STARTING = 120.0
"""Seconds that a kernel may take to start: half a second, but a minute where a busy machine emulates it."""
_STUBBORN = 1.5
"""Seconds between an interrupt and the next, and between the second and the end of the kernel."""

log = logging.getLogger("graftbox.kernel")


Launch = Callable[[Plan], tuple[Link, list[str], str]]
"""Gives, for a plan, a new link, the argv up to the link's arguments, and what ``sys.executable`` will be."""


class Kernel:
    """``state``: new, starting, idle, busy, dead or closed. ``generation`` counts its processes."""

    def __init__(self, plan: Plan, launch: Launch) -> None:
        self.plan = plan
        self.launch = launch
        self.generation = 0
        self.cwd = plan.cwd
        self.interpreter = plan.interpreter or ""
        self.note = ""
        self.created = time.time()
        self.cells = 0
        self._process: Process | None = None
        self._link: Link | None = None
        self._cell: Cell | None = None
        self._burial: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._closed = False

    @property
    def state(self) -> str:
        if self._closed:
            return "closed"
        if self._starting.locked():
            return "starting"
        if self._process is None:
            return "dead" if self.generation else "new"
        return "idle" if self._cell is None else "busy"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Have a living process that takes cells; raises `UnsupportedError` with its last words if not."""
        async with self._starting:
            if self._closed:
                raise UnsupportedError("The kernel was closed.")
            if self._process is not None:
                if not self._process.is_over():
                    return
                await asyncio.wait({self._process.ended})
                await asyncio.sleep(0)  # `_buried` comes right after
            link, argv, self.interpreter = self.launch(self.plan)
            try:
                process = Process([*argv, *link.arguments], self.plan, self.cwd, link.files)
                try:
                    await self._open(link, process)
                except BaseException:
                    await process.end()
                    raise
            except BaseException:
                link.close()
                raise
            self._process, self._link = process, link
            self.generation += 1
            process.ended.add_done_callback(lambda ended: self._buried(process, ended))

    async def _open(self, link: Link, process: Process) -> None:
        opening = asyncio.ensure_future(link.open())
        try:
            await asyncio.wait({opening, process.ended}, timeout=STARTING, return_when="FIRST_COMPLETED")
            if opening.done():
                return opening.result()
        finally:
            opening.cancel()
            await asyncio.wait({opening})
        why = how_it_ended(process.ended.result()) if process.ended.done() else "did not answer in time"
        said = process.said.decode(errors="replace").strip()[-1000:]
        raise UnsupportedError(f"The kernel's process {why} while it started{': ' * bool(said)}{said}")

    def _buried(self, process: Process, ended: asyncio.Future[int]) -> None:
        """Its process has ended, whoever ended it."""
        if ended.cancelled() or process is not self._process:
            return
        assert self._link is not None
        how = how_it_ended(ended.result())
        link, cell = self._link, self._cell
        self._process = self._link = self._cell = None
        if cell is None:
            link.close()
            if not self._closed:
                self.note = how
                log.warning("The kernel %s; its next cell starts it anew.", how)
            return
        self._burial = asyncio.ensure_future(_bury(link, cell, Ended("died", None, how)))

    async def execute(
        self,
        code: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        silent: bool = False,
        begun: Callable[[Cell], None] | None = None,
    ) -> Cell:
        """Run a cell after those before it, for at most ``timeout`` seconds; it has ended when this returns.

        Interrupted when it takes too long, or when this is cancelled.
        """
        async with self._turn:
            await self.start()
            assert self._link is not None
            # What is no text can't be sent; half of a surrogate pair is all that a JSON request can bring.
            cell = self._cell = Cell(code.encode("utf-8", "replace").decode())
            self.cells += 1
            if begun is not None:
                begun(cell)
            self._link.send(cell, cwd=cwd, silent=silent)
            try:
                await asyncio.wait({cell.done}, timeout=timeout)
                if not cell.done.done():
                    cell.timed_out = True
                    await self._stop(cell)
            except asyncio.CancelledError:
                await asyncio.shield(self._stop(cell))
                raise
            finally:
                if self._cell is cell:
                    self._cell = None
            if (now := cell.done.result().cwd) is not None:
                self.cwd = now
            return cell

    async def _stop(self, cell: Cell) -> None:
        """Interrupt the cell, twice if need be; a kernel that does not listen is ended."""
        for _ in range(2):
            if self._process is not None:
                self._process.interrupt()
            await asyncio.wait({cell.done}, timeout=_STUBBORN)
            if cell.done.done():
                return
        if self._process is not None:
            self._process.kill()
        await asyncio.wait({cell.done})

    def interrupt(self) -> bool:
        """Interrupt the running cell; whether there was one."""
        if self._process is None or self._cell is None:
            return False
        self._process.interrupt()
        return True

    async def restart(self) -> None:
        """A new process; what the old one ran ends with it."""
        await self._end()
        self.cwd = self.plan.cwd
        self.note = ""
        await self.start()

    async def close(self) -> None:
        self._closed = True
        await self._end()

    async def _end(self) -> None:
        async with self._starting:
            process = self._process
        if process is not None:
            await process.end()
            # The callback of the task runs a moment later.
            await asyncio.sleep(0)
            if self._burial is not None:
                await self._burial
            self.note = ""


async def _bury(link: Link, cell: Cell, ended: Ended) -> None:
    """The end of a cell whose kernel has died, after the last of what that said."""
    try:
        await link.drain()
    finally:
        link.close()
        cell.end(ended)


def places(folder: Path, plan: Plan) -> tuple[Path, Path]:
    """A new kernel's private base name in ``folder``, and where ``%pip`` shall install to.

    In the user's own home if that is there and writable, so that it outlives this server.
    """
    base = folder / f"k{os.urandom(3).hex()}"
    packages = Path(plan.home or "/", ".local/share/graftbox/python")
    home = next((place for place in packages.parents if place.exists()), Path("/"))
    with contextlib.suppress(OSError):
        mine = not plan.identity.switched or home.stat().st_uid == plan.identity.uid
        if plan.home and home != Path("/") and mine and os.access(home, os.W_OK):
            return base, packages
    return base, folder / "python"

"""One plugin: started, watched, started again when it has died, ended with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graftbox.errors import GraftboxError, UnsupportedError
from graftbox.server.plugins.manifest import Manifest
from graftbox.server.plugins.program import EndedError, Journal, Program

if TYPE_CHECKING:
    from graftbox.server.plugins.launch import Launch

State = Literal["off", "starting", "running", "waiting", "failed", "done", "stopped"]
PAUSES = (0.1, 1.0, 2.0, 5.0, 15.0)
"""Seconds before it is started again, after the first failure in a row and so on; then it has failed."""
HEALTHY = 30.0
"""Seconds after which a plugin that dies is not taken for one that can't run."""

log = logging.getLogger("graftbox.plugins")


class UnavailableError(GraftboxError):
    """The plugin does not answer now; ``retry_after`` in seconds, None: not before somebody starts it."""

    http_status = 503

    def __init__(self, text: str, retry_after: float | None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Plugin:
    """``state``: "off" (not asked for yet), "starting", "running", "waiting" (died, and is started again
    soon), "failed", "done" (ended by itself, as a program without a service may) or "stopped". ``reason``
    says why it is not running, or what happened last. ``starts`` counts.
    """

    def __init__(self, manifest: Manifest, prepare: Callable[[Plugin], Coroutine[Any, Any, Launch]]) -> None:
        self.manifest = manifest
        self.name = manifest.name
        self.state: State = "off"
        self.reason: str | None = None
        self.since = time.time()
        self.starts = 0
        self.took: float | None = None
        self.journal = Journal()
        self.program: Program | None = None
        self.launch: Launch | None = None
        self.changed = asyncio.Event()
        self._prepare = prepare
        self._keeping: asyncio.Task[None] | None = None
        self._next = 0.0

    @property
    def pid(self) -> int | None:
        return self.program.pid if self.program is not None and self.state == "running" else None

    def start(self) -> None:
        """Have it started, unless it runs or is about to."""
        if self._keeping is None or self._keeping.done():
            self._turn("starting")
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self, state: State = "stopped") -> None:
        """End it, and everything that it has started."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        await self._end()
        self._turn(state)

    async def close(self) -> None:
        """The server ends."""
        await self.stop()

    async def restart(self) -> None:
        await self.stop("off")
        self.start()

    async def settled(self, seconds: float) -> None:
        """Wait, for so long at most, until it runs or will not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.state in ("starting", "waiting"):
                    await self.changed.wait()

    async def running(self, patience: float) -> None:
        """Wait until it runs, and start it if it is to be on demand; raises `UnavailableError`."""
        if self.state == "off" and self.manifest.on_demand:
            self.start()
        until = time.monotonic() + patience
        if self.state == "running" and self._dead:
            # What is left of it is cleared away at present.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), patience)
            patience = max(0.0, until - time.monotonic())
        if self.state == "starting" or (self.state == "waiting" and self._left() < patience):
            await self.settled(patience)
        if self.state != "running":
            raise self.unavailable()

    def unavailable(self) -> UnavailableError:
        """Why it does not answer now."""
        because = f": {self.reason}" if self.reason else ""
        if self.state == "waiting":
            again = f"it is started again in {self._left():.1f} seconds"
            return UnavailableError(f"The plugin {self.name} does not run{because}; {again}.", self._left())
        if self.state == "starting":
            return UnavailableError(f"The plugin {self.name} is being started{because}.", 1.0)
        if self.state == "running":
            return UnavailableError(f"The plugin {self.name} does not answer.", 1.0)
        how = {"failed": "has failed", "done": "has ended"}.get(self.state, "is not started")
        hint = f"start it with POST /v1/plugins/{self.name}/start"
        return UnavailableError(f"The plugin {self.name} {how}{because}; {hint}.", None)

    @property
    def _dead(self) -> bool:
        """Whether the program that was running has ended, and its end was not dealt with yet."""
        if self.launch is None or not self.launch.argv:
            return False
        return self.program is None or self.program.ended.done()

    def _left(self) -> float:
        return max(0.0, self._next - time.monotonic())

    def _turn(self, state: State, reason: str | None = None) -> None:
        if state != self.state:
            self.since = time.time()
        self.state = state
        self.reason = reason
        self.changed.set()
        self.changed = asyncio.Event()

    async def _keep(self) -> None:
        """Run it for as long as it is wanted, whatever happens to it."""
        try:
            await self._run_and_rerun()
        except GraftboxError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"{error.strerror or error}.")
        except Exception:
            log.exception("The plugin %s can't be run", self.name)
            self._fail("The server failed; its log says more.")

    def _fail(self, reason: str) -> None:
        log.error("The plugin %s has failed: %s", self.name, reason)
        self._turn("failed", reason)

    async def _run_and_rerun(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            self._turn("starting", self.reason)
            how = await self._run(began)
            if how is None:
                return
            failures = 1 if time.monotonic() - began > HEALTHY else failures + 1
            if failures > len(PAUSES):
                self._fail(f"It {how}, as the {len(PAUSES)} times before.")
                return
            pause = PAUSES[failures - 1]
            log.warning("The plugin %s %s; it is started again.", self.name, how)
            self._next = time.monotonic() + pause
            self._turn("waiting", f"it {how}")
            await asyncio.sleep(pause)

    async def _run(self, began: float) -> str | None:
        """Run it once; how it ended, None if it may have ended."""
        launch = self.launch = await self._prepare(self)
        if not launch.argv:
            self._turn("running")
            return None
        self.starts += 1
        try:
            program = self.program = Program(launch.argv, launch.plan, self.journal)
            try:
                async with asyncio.timeout(launch.time_limit):
                    await program.until(line=self.manifest.ready, probe=launch.probe)
            except TimeoutError:
                return f"was not ready within {launch.time_limit:g} seconds"
            except EndedError as error:
                if program.ended.result() == 127:
                    raise UnsupportedError(f"It {error}.") from error
                return f"{error} before it was ready"
            self.took = time.monotonic() - began
            self._turn("running")
            await asyncio.wait({program.ended})
            if program.ended.result() == 0 and self.manifest.serve is None:
                self._turn("done")
                return None
            return program.how()
        finally:
            await self._end()

    async def _end(self) -> None:
        program, self.program = self.program, None
        if program is not None:
            await program.end()
        if self.launch is not None and self.launch.socket:
            with contextlib.suppress(OSError):
                Path(self.launch.socket).unlink()

    def describe(self) -> dict[str, Any]:
        """For the API."""
        manifest = self.manifest
        return {
            "name": self.name,
            "summary": manifest.summary,
            "source": manifest.source,
            "state": self.state,
            "reason": self.reason,
            "since": self.since,
            "on_demand": manifest.on_demand,
            "pid": self.pid,
            "starts": self.starts,
            "seconds": self.took,
            "needs": {
                "plugins": list(manifest.needs.plugins),
                "programs": list(manifest.needs.programs),
                "components": list(manifest.needs.components),
            },
            "port": None,
            "user": self.launch.plan.identity.uid if self.launch else os.geteuid(),
        }

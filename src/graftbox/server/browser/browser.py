"""The sandbox's browser: one Chromium, started with its first use and anew after it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftbox.errors import GraftboxError, UnsupportedError
from graftbox.server import runtime
from graftbox.server.aside import aside
from graftbox.server.browser import chromium, pages, trust
from graftbox.server.browser.cdp import Params, Router
from graftbox.server.browser.chromium import Plan, Process
from graftbox.server.browser.downloads import Downloads
from graftbox.server.browser.errors import BrowserError, PageTimeoutError
from graftbox.server.environment import BUNDLE
from graftbox.server.kernel.process import how_it_ended

if TYPE_CHECKING:
    from graftbox.server.browser.local import Loopback
    from graftbox.server.sandbox import Sandbox

START_SECONDS = 40.0
"""A Chromium that has not come up by then is started once more."""
END_SECONDS = 2.0
DOWNLOADS = ".downloads"
"""The folder, in the working folder, of what pages of the default context download."""
_MISSING = (
    "There is no Chromium: add the component browser to the bundle, or install chromium-headless-shell or "
    "chromium in the image."
)
_DISABLED = "The browser was switched off with --no-enable-browser."
_ROOT = (
    "Chromium's own sandbox can't be used by root; run the actions as another user (--username) to have it."
)
_REFUSED = "The container does not let programs make user namespaces, which Chromium's own sandbox needs."
_UNUSABLE = "No usable sandbox"

log = logging.getLogger("graftbox.browser")


class Browser:
    """``generation`` counts its starts; each of ``on_end`` is called with the reason when Chromium ends.

    ``sandboxed``: whether Chromium's own sandbox is used, None as long as that is not known; ``why_not``.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.generation = 0
        self.on_end: list[Callable[[str], None]] = []
        self.version: Params = {}
        self.started = 0.0
        self.last_end: str | None = None
        root = sandbox.identity.uid == 0
        self.sandboxed: bool | None = False if root else None
        self.why_not: str | None = _ROOT if root else None
        self.process: Process | None = None
        self._router: Router | None = None
        self._watching: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._folder: Path | None = None
        self._lock = -1

    @cached_property
    def local(self) -> Loopback:
        """What listens on the sandbox's own loopback interface: the file viewer, and `endpoint`."""
        from graftbox.server.browser.local import Loopback

        return Loopback(self)

    @cached_property
    def _program(self) -> str | None:
        return chromium.find(self.sandbox.environment)

    def available(self) -> str | None:
        """Why there can be no browser; None if there can."""
        if not self.sandbox.settings.browser:
            return _DISABLED
        return None if self._program else _MISSING

    @property
    def current(self) -> Router | None:
        """The channel to Chromium while it runs; nothing is started for it."""
        return self._router if self._router is not None and not self._router.ended.is_set() else None

    @property
    def running(self) -> bool:
        return self.current is not None

    @property
    def state(self) -> str:
        """``running``, ``starting``, ``stopped`` or ``unavailable``."""
        if self.current is not None:
            return "running"
        if self.available() is not None:
            return "unavailable"
        return "starting" if self.process is not None else "stopped"

    def describe(self) -> dict[str, Any]:
        """For ``GET /v1/capabilities``: nothing is started for it."""
        reason = self.available()
        path = self._program
        return {
            "works": reason is None,
            "reason": reason,
            "path": path,
            "bundled": path is not None and path.startswith(f"{BUNDLE}/"),
            "sandboxed": self.sandboxed if reason is None else None,
            "sandbox_reason": self.why_not,
        }

    async def prepare(self) -> None:
        """Have the file viewer listen, which is asked for before the browser is; failures are logged."""
        if self.available() is not None:
            return
        try:
            await self.local.open()
        except (OSError, GraftboxError) as error:
            log.error("The file viewer can't listen on the loopback interface: %s", error)

    async def endpoint(self) -> str:
        """An address for `connect_over_cdp` that needs no key; starts Chromium.

        Raises `UnsupportedError` where there can be no browser, or `BrowserError`.
        """
        await self.router()
        return await self.local.endpoint()

    def headers(self) -> dict[str, str]:
        """What a client of `endpoint` must send: nothing."""
        return {}

    async def viewer_url(self) -> str:
        """Where the file viewer is, as http://localhost:PORT."""
        await self.local.open()
        return self.local.url

    async def place(self) -> Path:
        """A private folder of the user of the actions, gone with the server. Raises `StorageError`."""
        async with self._changing:
            return await aside(None, self._place)

    async def router(self) -> Router:
        """The channel to a running Chromium; raises as `endpoint` does."""
        if self._router is not None and not self._router.ended.is_set():
            return self._router
        async with self._changing:
            if self._router is None or self._router.ended.is_set():
                # What is left of the one before must be gone.
                await self._end()
                self._router = await self._start()
            return self._router

    async def check(self) -> None:
        """End a Chromium that has stopped to answer, so that the next use starts another."""
        router, process = self._router, self.process
        if router is None or process is None or router.ended.is_set() or await pages.answers(router):
            return
        log.error("Chromium does not answer any more and is ended.")
        await process.gone()
        await router.ended.wait()

    async def restart(self) -> None:
        """End Chromium with all its pages, and start it anew."""
        async with self._changing:
            await self._end()
            self._router = await self._start()

    async def stop(self) -> None:
        """End Chromium; the next use starts it."""
        async with self._changing:
            await self._end()

    async def close(self) -> None:
        """End all of it, and remove its files."""
        await self.stop()
        if "local" in self.__dict__:
            await self.local.close()
        if self._folder is not None:
            await aside(None, shutil.rmtree, self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = None

    async def _start(self) -> Router:
        if reason := self.available():
            raise UnsupportedError(reason)
        # The sandbox is tried, and Chromium itself says that it can't have one.
        choices = (True, False) if self.sandboxed is None else (self.sandboxed,)
        for sandboxed in choices:
            try:
                router = await self._launch_twice(sandboxed)
            except BrowserError as error:
                if sandboxed and self.sandboxed is None:
                    self.why_not = _REFUSED if _UNUSABLE in str(error) else str(error)
                    continue
                raise
            self.sandboxed = sandboxed
            return router
        raise AssertionError

    async def _launch_twice(self, sandboxed: bool) -> Router:
        for last in (False, True):
            plan = await aside(None, self._plan, sandboxed)
            try:
                return await self._launch(plan)
            except BrowserError as error:
                if last or not isinstance(error.__cause__, PageTimeoutError):
                    raise
                log.warning("%s It is started once more.", error)
        raise AssertionError

    def _place(self) -> Path:
        sandbox = self.sandbox
        if self._folder is None:
            self._folder, self._lock = runtime.claim(sandbox.environment, sandbox.settings.working_dir, None)
        return runtime.place_for(self._folder, sandbox.identity)

    def _plan(self, sandboxed: bool) -> Plan:
        sandbox = self.sandbox
        folder = self._place() / "b"
        shutil.rmtree(folder, ignore_errors=True)
        program = self._program
        assert program is not None
        plan = Plan(
            program=program,
            folder=folder,
            identity=sandbox.identity,
            environment=sandbox.environment,
            sandboxed=sandboxed,
            memory=sandbox.settings.limits.page_memory_bytes,
            file=sandbox.settings.limits.download_bytes,
        )
        chromium.prepare(plan)
        trust.install(plan, trust.unusual(sandbox.environment))
        return plan

    async def _launch(self, plan: Plan) -> Router:
        """Raises `BrowserError`, with what Chromium said, when it does not come up."""
        popen, channel, lifeline = await aside(None, chromium.spawn, plan)
        process = self.process = Process(popen, channel, lifeline)
        router = await Router.open(channel, self.sandbox.settings.limits.max_pages)
        settings = self.sandbox.settings
        downloads = Downloads(
            str(Path(settings.working_dir, DOWNLOADS)),
            settings.limits,
            lambda guid: router.later("Browser.cancelDownload", {"guid": guid}),
            lambda: router.later("Browser.setDownloadBehavior", {"behavior": "deny", "eventsEnabled": True}),
        )
        router.on["Browser.downloadWillBegin"] = downloads.begun
        router.on["Browser.downloadProgress"] = downloads.moved
        behaviour = {"behavior": "allow", "downloadPath": downloads.folder, "eventsEnabled": True}
        try:
            self.version, *_ = await asyncio.gather(
                router.call("Browser.getVersion", timeout=START_SECONDS),
                router.watch_pages(START_SECONDS),
                router.call("Browser.setDownloadBehavior", behaviour, timeout=START_SECONDS),
            )
        except (BrowserError, PageTimeoutError) as error:
            await process.gone()
            status = process.ended.result()
            router.close()
            self.process = None
            said = f"{error} {process.last_words}".strip()
            raise BrowserError(f"Chromium {how_it_ended(status)} when it was started: {said}") from error
        except BaseException:
            process.kill()
            router.close()
            raise
        self.generation += 1
        self.started = time.time()
        self._watching = asyncio.get_running_loop().create_task(self._watch(process, router))
        return router

    async def _watch(self, process: Process, router: Router) -> None:
        """Notice its end, in whichever way, and take down what is left of it."""
        over = asyncio.ensure_future(router.ended.wait())
        await asyncio.wait({process.ended, over}, return_when=asyncio.FIRST_COMPLETED)
        # It closes its channel when it ends in order, and has a moment to do so.
        await asyncio.wait({process.ended}, timeout=END_SECONDS)
        process.kill()
        status = await process.ended
        router.close()
        await over
        reason = f"Chromium {how_it_ended(status)}."
        self.last_end = reason
        if self.process is process:
            self.process = None
            log.warning("%s The next use starts it anew. %s", reason, process.last_words)
        for call in list(self.on_end):
            call(reason)

    async def _end(self) -> None:
        process, router, watching = self.process, self._router, self._watching
        self.process = self._router = self._watching = None
        if router is not None and not router.ended.is_set():
            # In order, so that it waits for its own processes and leaves nothing to be reaped.
            with contextlib.suppress(BrowserError, PageTimeoutError):
                await router.call("Browser.close", timeout=END_SECONDS)
        if watching is not None:
            await watching
        if process is not None:
            await process.gone()

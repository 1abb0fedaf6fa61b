"""One agent's tabs: does its actions, waits until their effects have come, and looks at the page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from graftbox.server.browser import tabs
from graftbox.server.browser.actions import parse
from graftbox.server.browser.axtree import flatten
from graftbox.server.browser.chromium import HEIGHT, WIDTH
from graftbox.server.browser.downloads import Downloads
from graftbox.server.browser.errors import BrowserError, PageError
from graftbox.server.browser.hand import Hand
from graftbox.server.browser.marking import ACTIVATION, BINDING
from graftbox.server.browser.observation import Observation, observe
from graftbox.server.browser.sight import Sight
from graftbox.server.browser.step import Step
from graftbox.server.limits import Limits

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, CDPSession, Page, Request

ACTION_SECONDS = 100.0
"""The longest that an action may take, unless it has a limit of its own."""
LOOK_SECONDS = 30.0
"""A page that can't be looked at in this time is given up, earlier where the step has less time left."""
LOOK_LEAST_SECONDS = 2.0
SPLIT_SECONDS = 10.0
TRIES = 20
PROBE_SECONDS = 1.0
QUIET_SECONDS = 0.03
INPUT_QUIET_SECONDS = 0.1
"""After clicks and keys, whose effects come a little later than those of going to a page."""
SETTLE_SECONDS = 0.5
"""The effects of an action are waited for until the network is quiet, at most so long."""
LOAD_MS = 3000
QUIET = frozenset(("noop", "goto", "go_back", "go_forward", "new_tab", "tab_focus", "tab_close", "scroll"))
STILL = frozenset(("noop", "goto", "new_tab"))
"""After these a page does not move any more, unless it changes or loads what can be noticed."""
DOWNLOAD_SECONDS = 60.0


class Gym:
    """All its coroutines are for the driver's event loop. Pages belong to a context of their own, which goes
    with the connection; ``context_id`` is Chromium's name for it.
    """

    def __init__(
        self, browser: Browser, sight: Callable[[], Sight], folder: str, downloads: str, limits: Limits
    ) -> None:
        self.browser = browser
        self._sight = sight
        self.folder = folder
        self.downloads = Downloads(downloads, limits, self._cancel, self._deny)
        self.context_id = ""
        self.context: BrowserContext | None = None
        self.page: Page | None = None
        self._history: dict[Page, None] = {}
        self._sessions: dict[Page, CDPSession] = {}
        self._sights: dict[Page, Sight] = {}
        self._crashed: set[Page] = set()
        self._given_up: set[Page] = set()
        self._suspicious = False
        self._browser_session: CDPSession | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._requests: set[Request] = set()
        self._network = asyncio.Event()

    async def open(self) -> None:
        """Have a first, empty tab."""
        session, _ = await asyncio.gather(self.browser.new_browser_cdp_session(), self._open())
        await self._receive_downloads(session)

    async def _open(self) -> None:
        context = await self.browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, accept_downloads=True
        )
        self.context = context
        context.on("request", self._begun)
        context.on("requestfinished", self._done)
        context.on("requestfailed", self._done)
        context.on("page", self._opened)
        context.on("dialog", tabs.answer)
        await asyncio.gather(
            context.expose_binding(BINDING, lambda source: self._activate(source["page"])),
            context.add_init_script(ACTIVATION),
        )
        self._activate(await context.new_page())

    @property
    def pages(self) -> list[Page]:
        """The open tabs, in the order in which they were opened."""
        assert self.context is not None
        return [page for page in self.context.pages if page not in self._given_up]

    @property
    def alive(self) -> bool:
        return self.browser.is_connected()

    async def step(self, text: str, deadline: float) -> Step:
        """Do the actions in ``text`` until ``deadline`` (`time.monotonic`), and look at the page.

        What goes wrong with an action is told in the step. Raises `PageError` when the page can't be looked
        at, and `BrowserError` when there is no browser any more.
        """
        assert self.context is not None
        error = ""
        self.downloads.finished.clear()
        left = deadline - time.monotonic()
        left = max(1.0, round(min(left - min(LOOK_SECONDS / 2, left / 4), ACTION_SECONDS), 1))
        self.context.set_default_timeout(round(left * 1000))
        page = await self._living()
        crashed = ""
        quiet, still = QUIET_SECONDS, True
        try:
            hand = Hand(page, self._activate, lambda: self.pages, self.folder)
            # Playwright's own limits come first, as they say what was waited for.
            async with asyncio.timeout(left + 0.5):
                for call in parse(text):
                    if call.name not in QUIET:
                        quiet = INPUT_QUIET_SECONDS
                    still = still and call.name in STILL
                    await hand.do(call)
        except asyncio.CancelledError:
            raise
        except Exception as failure:
            said = str(failure) or f"The actions took longer than {left:.0f} s."
            error = f"{type(failure).__name__}: {said}"
        if not self.alive:
            raise BrowserError(f"The browser ended while the action ran. {error}".strip())
        if error.startswith("TimeoutError"):
            # Until a page that was begun is there, or given up, Chromium lets nobody look at the one before.
            await self._stop_loading(page)
        if "net::ERR_" in error and "net::ERR_ABORTED" not in error:
            await tabs.await_error_page(page)
        try:
            seen = None
            if still and not (error or self._requests or page in self._crashed):
                page = await self._current()
                seen = await self._glance(page, deadline)
            if seen is None:
                await self._settle(quiet)
                left = deadline - time.monotonic() - LOOK_SECONDS
                await self.downloads.wait(min(DOWNLOAD_SECONDS, max(0.1, left)))
                page, seen, crashed = await self._look_around(page, deadline)
        except PageError as unseen:
            raise PageError(f"{unseen} {error}".strip()) from None
        return await self._told(page, seen, crashed if crashed and not error else error)

    async def _glance(self, page: Page, deadline: float) -> Observation | None:
        """The page, looked at while it is awaited that it rests; None if it does not, or can't be seen yet.

        Raises `PageError`.
        """
        self._network.clear()
        quiet = time.monotonic() + QUIET_SECONDS
        try:
            seen = await self._look(page, deadline)
        except PageError:
            raise
        except Exception:
            return None
        await asyncio.sleep(max(0.0, quiet - time.monotonic()))
        loading = self._network.is_set() or self.downloads.unnoticed
        moved = seen.changed or page in self._crashed or self.page is not page
        return None if loading or moved else seen

    async def _look_around(self, page: Page, deadline: float) -> tuple[Page, Observation, str]:
        """The page that was used last, or another if it goes while it is looked at; what is to say of that.

        Raises as `_look` does.
        """
        crashed = ""
        for left in reversed(range(TRIES)):
            if page in self._crashed:
                crashed = f"The page {page.url} crashed, and its tab was closed."
            page = await self._current()
            try:
                return page, await self._look(page, deadline), crashed
            except PageError:
                raise
            except Exception as failure:
                gone = page in self._crashed or tabs.is_end(failure) or await tabs.goes(page)
                if not (left and gone and self.alive):
                    raise
                if page not in self._crashed and not page.is_closed():
                    self._give_up(page)
        raise AssertionError

    async def _look(self, page: Page, deadline: float) -> Observation:
        """Raises `PageError` when that takes too long, Playwright's errors and `BrowserError`."""

        async def look(seconds: float, *, brief: bool) -> Observation:
            async with asyncio.timeout(seconds):
                sight = await self._seeing(page)
                with contextlib.suppress(Error):
                    await page.wait_for_load_state("domcontentloaded", timeout=LOAD_MS)
                return await observe(page, sight, brief=brief)

        from playwright.async_api import Error

        left = deadline - time.monotonic()
        # A part of the time is kept for an outline, unless there is little.
        least = left * 2 / 3 if left > SPLIT_SECONDS else max(LOOK_LEAST_SECONDS, left)
        with contextlib.suppress(TimeoutError):
            return await look(min(LOOK_SECONDS, least), brief=False)
        sight = self._sights.get(page)
        if sight is not None and sight.answered:
            left = max(LOOK_LEAST_SECONDS, deadline - time.monotonic())
            with contextlib.suppress(TimeoutError):
                return await look(min(LOOK_SECONDS, left), brief=True)
        raise PageError(await self._unseen(page))

    async def _session(self, page: Page) -> CDPSession:
        if page not in self._sessions:
            assert self.context is not None
            self._sessions[page] = await self.context.new_cdp_session(page)
        return self._sessions[page]

    async def _seeing(self, page: Page) -> Sight:
        if page not in self._sights:
            target = await (await self._session(page)).send("Target.getTargetInfo")
            await self._see(page, target["targetInfo"]["targetId"])
        return self._sights[page]

    async def _see(self, page: Page, target: str) -> None:
        sight = self._sight()
        await sight.open(target)
        self._sights[page] = sight

    async def _stop_loading(self, page: Page) -> None:
        async def stop() -> None:
            await (await self._session(page)).send("Page.stopLoading")

        with contextlib.suppress(Exception):
            await asyncio.wait_for(stop(), PROBE_SECONDS)

    async def _unseen(self, page: Page) -> str:
        """Why a page could not be looked at in time; one that answers nothing at all is given up."""
        try:
            await asyncio.wait_for(page.evaluate("0"), PROBE_SECONDS)
        except Exception:
            self._give_up(page)
            # Its process must be gone before another page can be put into it.
            await asyncio.wait(self._ending, timeout=LOOK_LEAST_SECONDS)
            return (
                f"The page {page.url} does not answer: its scripts keep it busy, or it is too large. "
                "Its tab was closed."
            )
        return f"The page {page.url} is too large or too busy to be looked at in the time that was left."

    async def _told(self, page: Page, seen: Observation, error: str) -> Step:
        assert self.context is not None
        pages = self.pages
        notes = [*self.downloads.take_notes(), *seen.notes]
        return Step(
            url=page.url,
            urls=[each.url for each in pages],
            active=pages.index(page) if page in pages else -1,
            focused=seen.focused,
            error=error,
            tree=seen.tree,
            tree_text=flatten(seen.tree, seen.properties),
            properties=seen.properties,
            text=seen.text,
            picture=seen.picture,
            marked=seen.marked,
            downloads=tuple(self.downloads.finished),
            notes=tuple(notes),
        )

    # Tabs

    def _activate(self, page: Page) -> None:
        self._history.pop(page, None)
        self._history[page] = None
        self.page = page

    def _opened(self, page: Page) -> None:
        page.on("crash", self._crash)
        page.on("close", self._closed)

    def _crash(self, page: Page) -> None:
        self._crashed.add(page)

    def _closed(self, page: Page) -> None:
        self._history.pop(page, None)
        self._sessions.pop(page, None)
        self._sights.pop(page, None)
        self._crashed.discard(page)
        self._given_up.discard(page)

    async def _living(self) -> Page:
        """The current page, but none that goes together with one that was given up: they share processes."""
        if self._suspicious and self._ending:
            await asyncio.wait(self._ending, timeout=tabs.END_SECONDS)
        for _ in range(TRIES):
            page = await self._current()
            if not self._suspicious:
                break
            try:
                await asyncio.wait_for(page.evaluate("0"), PROBE_SECONDS)
            except TimeoutError:
                continue
            except Exception as failure:
                if not tabs.is_end(failure):
                    break
                if page not in self._crashed and not page.is_closed():
                    self._give_up(page)
            else:
                break
        self._suspicious = False
        return page

    async def _current(self) -> Page:
        """The page that was used last, of those that are left; there is always one."""
        assert self.context is not None
        for page in list(self._crashed):
            self._give_up(page)
        while self.page is None or self.page.is_closed() or self.page not in self.pages:
            if self.page is not None:
                self._history.pop(self.page, None)
            if self._history:
                self.page = next(reversed(self._history))
            elif self.pages:
                self._activate(self.pages[-1])
            else:
                self._activate(await self.context.new_page())
        return self.page

    def _give_up(self, page: Page) -> None:
        """Have nothing more to do with a page; it goes as soon as it can."""
        self._crashed.discard(page)
        self._history.pop(page, None)
        self._sights.pop(page, None)
        self._given_up.add(page)
        self._suspicious = True
        self._later(tabs.end(page, self._sessions.pop(page, None)))

    # Waiting

    def _begun(self, request: Request) -> None:
        self._requests.add(request)
        self._network.set()

    def _done(self, request: Request) -> None:
        self._requests.discard(request)
        self._network.set()

    async def _settle(self, quiet: float) -> None:
        """Wait until what the actions began has come to an end: no request is open, and none begins."""
        self._requests = {each for each in self._requests if not tabs.page_is_closed(each)}
        until = time.monotonic() + SETTLE_SECONDS
        while (left := until - time.monotonic()) > 0:
            self._network.clear()
            try:
                await asyncio.wait_for(self._network.wait(), left if self._requests else quiet)
            except TimeoutError:
                break
        self._requests.clear()

    # Downloads

    async def _receive_downloads(self, session: CDPSession) -> None:
        """Have Chromium put what this context downloads into the folder, under its own name."""
        assert self.context is not None
        assert self.page is not None
        page = await self.context.new_cdp_session(self.page)
        self._sessions[self.page] = page
        target = await page.send("Target.getTargetInfo")
        self._browser_session = session
        self.context_id = target["targetInfo"]["browserContextId"]
        session.on("Browser.downloadWillBegin", self.downloads.begun)
        session.on("Browser.downloadProgress", self.downloads.moved)
        behaviour = {
            "behavior": "allow",
            "browserContextId": self.context_id,
            "downloadPath": self.downloads.folder,
            "eventsEnabled": True,
        }
        await asyncio.gather(
            session.send("Browser.setDownloadBehavior", behaviour),
            self._see(self.page, target["targetInfo"]["targetId"]),
        )

    def _cancel(self, guid: str) -> None:
        assert self._browser_session is not None
        params = {"guid": guid, "browserContextId": self.context_id}
        self._later(self._browser_session.send("Browser.cancelDownload", params))

    def _deny(self) -> None:
        assert self._browser_session is not None
        params = {"behavior": "deny", "browserContextId": self.context_id, "eventsEnabled": True}
        self._later(self._browser_session.send("Browser.setDownloadBehavior", params))

    def _later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have it done, come of it what may."""
        task = asyncio.ensure_future(tabs.quietly(work))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

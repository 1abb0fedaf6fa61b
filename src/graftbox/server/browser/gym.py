"""One agent's tabs: does its actions, waits until their effects have come, and looks at the page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graftbox.server.browser.actions import parse
from graftbox.server.browser.axtree import flatten
from graftbox.server.browser.chromium import HEIGHT, WIDTH
from graftbox.server.browser.downloads import Downloads
from graftbox.server.browser.errors import BrowserError, PageError
from graftbox.server.browser.hand import Hand
from graftbox.server.browser.marking import ACTIVATION, BINDING, MOST
from graftbox.server.browser.marks import overlay
from graftbox.server.browser.observation import Observation, content, observe
from graftbox.server.browser.text import as_text
from graftbox.server.limits import Limits

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, CDPSession, Dialog, Page, Request

ACTION_SECONDS = 100.0
"""The longest that an action may take, unless it has a limit of its own."""
LOOK_SECONDS = 30.0
"""A page that can't be looked at in this time is given up, earlier where the step has less time left."""
LOOK_LEAST_SECONDS = 2.0
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
END_SECONDS = 10.0
_ERROR_PAGE = "location.protocol === 'chrome-error:' && document.readyState === 'complete'"


@dataclass(frozen=True)
class Step:
    """What a step has come to; ``error`` is empty when it did what it should. ``picture`` and ``marked`` are
    PNGs in base64, ``text`` is the page's, ``tree_text`` what an agent reads of ``tree``; ``downloads`` are
    the paths of files, ``notes`` say what else happened.
    """

    url: str
    urls: list[str]
    active: int
    focused: str | None
    error: str
    tree: dict[str, Any]
    tree_text: str
    properties: dict[str, Any]
    text: str
    picture: str
    marked: str
    downloads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Gym:
    """All its coroutines are for the driver's event loop. Pages belong to a context of their own, which goes
    with the connection; ``context_id`` is Chromium's name for it.
    """

    def __init__(self, browser: Browser, folder: str, downloads: str, limits: Limits | None = None) -> None:
        self.browser = browser
        self.folder = folder
        self.downloads = Downloads(downloads, limits or Limits(), self._cancel, self._deny)
        self.context_id = ""
        self.context: BrowserContext | None = None
        self.page: Page | None = None
        self._history: dict[Page, None] = {}
        self._sessions: dict[Page, CDPSession] = {}
        self._crashed: set[Page] = set()
        self._given_up: set[Page] = set()
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
        context.on("dialog", _answer)
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
        page = await self._current()
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
            await _await_error_page(page)
        try:
            seen = None
            if still and not (error or self._requests or page in self._crashed):
                page = await self._current()
                seen = await self._glance(page, deadline)
            if seen is None:
                await self._settle(quiet)
                left = deadline - time.monotonic() - LOOK_SECONDS
                await self.downloads.wait(min(DOWNLOAD_SECONDS, max(0.1, left)))
                if page in self._crashed:
                    crashed = f"The page {page.url} crashed, and its tab was closed."
                page = await self._current()
                seen = await self._look(page, deadline)
        except TimeoutError:
            raise PageError(f"{await self._unseen(page)} {error}".strip()) from None
        return await self._told(page, seen, crashed if crashed and not error else error)

    async def _glance(self, page: Page, deadline: float) -> Observation | None:
        """The page, looked at while it is awaited that it rests; None if it does not, or can't be seen yet.

        Raises `TimeoutError`.
        """
        self._network.clear()
        quiet = time.monotonic() + QUIET_SECONDS
        try:
            seen = await self._look(page, deadline)
        except TimeoutError:
            raise
        except Exception:
            return None
        await asyncio.sleep(max(0.0, quiet - time.monotonic()))
        loading = self._network.is_set() or self.downloads.unnoticed
        moved = seen.changed or page in self._crashed or self.page is not page
        return None if loading or moved else seen

    async def _look(self, page: Page, deadline: float) -> Observation:
        """Raises `TimeoutError`, and Playwright's errors."""

        async def look() -> Observation:
            session = await self._session(page)
            with contextlib.suppress(Exception):
                await page.wait_for_load_state("domcontentloaded", timeout=LOAD_MS)
            return await observe(page, session)

        limit = min(LOOK_SECONDS, max(LOOK_LEAST_SECONDS, deadline - time.monotonic()))
        return await asyncio.wait_for(look(), limit)

    async def _session(self, page: Page) -> CDPSession:
        if page not in self._sessions:
            assert self.context is not None
            self._sessions[page] = await self.context.new_cdp_session(page)
        return self._sessions[page]

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
        notes = self.downloads.take_notes()
        if seen.cut:
            notes.append(f"Only the first {MOST} elements of the page, or of a frame in it, have a bid.")
        return Step(
            url=page.url,
            urls=[each.url for each in pages],
            active=pages.index(page) if page in pages else -1,
            focused=seen.focused,
            error=error,
            tree=seen.tree,
            tree_text=flatten(seen.tree, seen.properties),
            properties=seen.properties,
            text=as_text(content(seen.snapshot)),
            picture=seen.picture,
            marked=overlay(seen.picture, seen.properties),
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
        self._crashed.discard(page)
        self._given_up.discard(page)

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
        self._given_up.add(page)
        self._later(_end(page, self._sessions.pop(page, None)))

    # Waiting

    def _begun(self, request: Request) -> None:
        self._requests.add(request)
        self._network.set()

    def _done(self, request: Request) -> None:
        self._requests.discard(request)
        self._network.set()

    async def _settle(self, quiet: float) -> None:
        """Wait until what the actions began has come to an end: no request is open, and none begins."""
        self._requests = {each for each in self._requests if not _page_is_closed(each)}
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
        await session.send(
            "Browser.setDownloadBehavior",
            {
                "behavior": "allow",
                "browserContextId": self.context_id,
                "downloadPath": self.downloads.folder,
                "eventsEnabled": True,
            },
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
        task = asyncio.ensure_future(_quietly(work))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _quietly(work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(Exception):
        await work


async def _answer(dialog: Dialog) -> None:
    """Nobody is there to answer: what a page asks before it is left gets a yes, all else a no."""
    with contextlib.suppress(Exception):
        if dialog.type == "beforeunload":
            await dialog.accept()
        else:
            await dialog.dismiss()


async def _await_error_page(page: Page) -> None:
    """Have the page there with which Chromium says why there is no other: it comes behind the error."""
    with contextlib.suppress(Exception):
        await page.wait_for_function(_ERROR_PAGE, timeout=SETTLE_SECONDS * 1000)


async def _end(page: Page, session: CDPSession | None) -> None:
    """Close a page however busy it is: its process ends first."""
    if session is not None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(session.send("Page.crash"), END_SECONDS)
    with contextlib.suppress(Exception):
        await asyncio.wait_for(page.close(), END_SECONDS)


def _page_is_closed(request: Request) -> bool:
    try:
        return request.frame.page.is_closed()
    except Exception:  # a service worker's
        return True

"""What can be done with a page, over the protocol directly: open, go, photograph, print, read, close."""

from __future__ import annotations

import asyncio
import contextlib
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from graftbox.errors import NotFoundError, UsageError
from graftbox.server.browser.cdp import Params, ProtocolError, Router
from graftbox.server.browser.errors import BrowserError, PageError, PageTimeoutError, TooManyPagesError

EVENTS = {
    "commit": "commit",
    "domcontentloaded": "DOMContentLoaded",
    "load": "load",
    "networkidle": "networkIdle",
}
"""What can be waited for, and what the protocol calls it."""
_LARGEST = 16_384
"""Pixels of the longest side of a picture: more is not drawn by any renderer."""
_MOST = 64_000_000
"""Pixels of a picture."""
# What a reader sees of a page, as HTML; in a world of its own, where the page's scripts can't interfere.
_READ = """(limit) => {
  const hidden = 'script,style,noscript,template,svg,canvas,iframe,object,embed,link,meta,head';
  const body = (document.body || document.documentElement).cloneNode(true);
  for (const each of body.querySelectorAll(hidden + ',[hidden],[aria-hidden=true]')) each.remove();
  for (const each of body.querySelectorAll('a[href]')) each.setAttribute('href', each.href);
  for (const each of body.querySelectorAll('img')) {
    const source = each.src;
    if (source.startsWith('data:')) each.removeAttribute('src'); else each.setAttribute('src', source);
  }
  const html = body.outerHTML, text = document.body ? document.body.innerText : '';
  return {url: location.href, title: document.title, html: html.slice(0, limit), text: text.slice(0, limit),
          truncated: html.length > limit || text.length > limit};
}"""
MAX_TEXT = 4 * 1024 * 1024
"""Characters of a page's HTML or text that are read."""
_PROBE = 5.0
_ENDED = "The page was closed or its process ended, perhaps for want of memory; open it again."


class Visit:
    """One session with a page, for one operation that shall end by ``deadline`` (`time.monotonic`)."""

    def __init__(self, router: Router, target: str, deadline: float) -> None:
        self.router = router
        self.target = target
        self.deadline = deadline
        self.session = ""
        self.crashed = asyncio.Event()
        self.reached: set[tuple[str, str]] = set()
        self.moved = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def left(self) -> float:
        return max(0.001, self.deadline - time.monotonic())

    def hear(self, method: str, params: Params) -> None:
        """An event of the page's."""
        if method == "Page.lifecycleEvent" and params["frameId"] == self.target:
            self.reached.add((params["loaderId"], params["name"]))
            self.moved.set()
        elif method == "Page.javascriptDialogOpening":
            # Nobody is there to answer: what a page asks before it is left gets a yes, all else a no.
            answer = self._answer(params["type"] == "beforeunload")
            task = asyncio.get_running_loop().create_task(answer)
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif method in ("Inspector.targetCrashed", "Inspector.detached"):
            self.crashed.set()

    async def _answer(self, accept: bool) -> None:
        with contextlib.suppress(BrowserError, PageTimeoutError):
            await self.call("Page.handleJavaScriptDialog", {"accept": accept})

    async def call(self, method: str, params: Params | None = None) -> Params:
        """Raises `PageError` when the page's process is gone, `PageTimeoutError`, `BrowserError`."""
        calling = asyncio.ensure_future(self.router.call(method, params, self.session, self.left))
        gone = asyncio.ensure_future(self.crashed.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {calling, gone}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise PageError(_ENDED)
            return await calling
        except PageTimeoutError as error:
            raise PageTimeoutError(
                "The page did not answer in time: it is busy, perhaps for ever. Wait longer, or close it."
            ) from error
        finally:
            for task in (calling, gone):
                task.cancel()
            await asyncio.gather(calling, gone, return_exceptions=True)


@asynccontextmanager
async def visit(router: Router, page: str, timeout: float, *, anew: bool = False) -> AsyncIterator[Visit]:
    """A session with the page of this id; raises `NotFoundError`.

    Raises `PageError` for one whose process has ended, unless it shall go somewhere: ``anew``.
    """
    if page not in router.pages:
        raise NotFoundError(f"There is no page {page}; GET /v1/browser lists those that are open.")
    if page in router.crashed and not anew:
        raise PageError(_ENDED)
    found = Visit(router, page, time.monotonic() + timeout)
    try:
        found.session = await router.attach(page, found.hear, found.left)
    except ProtocolError as error:
        raise NotFoundError(f"The page {page} was closed just now.") from error
    try:
        yield found
    finally:
        await router.detach(found.session)


async def create(router: Router) -> str:
    """The id of a new, empty page; raises `TooManyPagesError`."""
    if trouble := router.too_many():
        raise TooManyPagesError(trouble)
    result = await router.call("Target.createTarget", {"url": "about:blank"})
    target: str = result["targetId"]
    router.pages.setdefault(target, {"targetId": target, "type": "page", "url": "about:blank", "title": ""})
    return target


async def goto(here: Visit, url: str, until: str) -> None:
    """Have the page at ``url``, as far as ``until``, one of `EVENTS`.

    Raises `PageError` where nothing could be loaded and `PageTimeoutError`, after which the page goes on.
    """
    try:
        # At once: a page whose process has ended answers only after it has gone somewhere.
        result, *_ = await asyncio.gather(
            here.call("Page.navigate", {"url": url}),
            here.call("Page.enable"),
            here.call("Page.setLifecycleEventsEnabled", {"enabled": True}),
        )
    except ProtocolError as error:
        raise UsageError(
            f"{url!r} is no address that can be opened; begin with http:// or https://."
        ) from error
    if result.get("isDownload"):
        return
    if trouble := result.get("errorText"):
        raise PageError(f"{url} could not be opened: {trouble}.")
    loader = result.get("loaderId")
    if loader is None:
        return  # another place on the same page
    wanted = (loader, EVENTS[until])
    gone = asyncio.ensure_future(here.crashed.wait())
    try:
        while wanted not in here.reached:
            here.moved.clear()
            moved = asyncio.ensure_future(here.moved.wait())
            done, _ = await asyncio.wait(
                {moved, gone}, timeout=here.left, return_when=asyncio.FIRST_COMPLETED
            )
            moved.cancel()
            if gone in done:
                raise PageError(f"The process of the page ended while it opened {url}.")
            if not done:
                raise PageTimeoutError(
                    f"{url} did not get as far as {until} in time. It goes on loading; what there is can "
                    "be read."
                )
    finally:
        gone.cancel()


async def screenshot(here: Visit, kind: str, quality: int | None, *, full_page: bool) -> bytes:
    """A picture of what is to be seen, or of the whole page, cut where it gets too large; png or jpeg."""
    params: Params = {"format": kind}
    if quality is not None:
        params["quality"] = quality
    if full_page:
        size = (await here.call("Page.getLayoutMetrics"))["cssContentSize"]
        width = min(max(1, size["width"]), _LARGEST)
        height = min(max(1, size["height"]), _LARGEST, _MOST // width)
        params["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        params["captureBeyondViewport"] = True
    data = (await here.call("Page.captureScreenshot", params))["data"]
    return await asyncio.to_thread(b64decode, data)


async def pdf(here: Visit, options: Params) -> bytes:
    """The page as it would be printed; ``options`` as the protocol names them."""
    data = (await here.call("Page.printToPDF", {"transferMode": "ReturnAsBase64", **options}))["data"]
    return await asyncio.to_thread(b64decode, data)


async def read(here: Visit) -> dict[str, Any]:
    """``url``, ``title``, ``html`` of what is visible, ``text`` as shown, and whether it is ``truncated``."""
    world = await here.call("Page.createIsolatedWorld", {"frameId": here.target, "worldName": "graftbox"})
    result = await here.call(
        "Runtime.callFunctionOn",
        {
            "functionDeclaration": _READ,
            "executionContextId": world["executionContextId"],
            "arguments": [{"value": MAX_TEXT}],
            "returnByValue": True,
        },
    )
    if "exceptionDetails" in result:
        raise PageError(f"The page could not be read: {told(result['exceptionDetails'])}")
    found: dict[str, Any] = result["result"]["value"]
    return found


async def evaluate(here: Visit, expression: str) -> dict[str, Any]:
    """``{"value": …}`` of JavaScript run in the page, or ``{"error": …}`` that it threw."""
    result = await here.call(
        "Runtime.evaluate",
        {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True},
    )
    if "exceptionDetails" in result:
        return {"value": None, "error": told(result["exceptionDetails"])}
    return {"value": result["result"].get("value"), "error": None}


def told(details: Params) -> str:
    """What an exception of JavaScript's says."""
    thrown = details.get("exception", {})
    return str(thrown.get("description") or thrown.get("value") or details.get("text", ""))


async def close(router: Router, page: str) -> None:
    """Close it, however busy it is; raises `NotFoundError`."""
    if page not in router.pages:
        raise NotFoundError(f"There is no page {page}; GET /v1/browser lists those that are open.")
    with contextlib.suppress(ProtocolError):
        await router.call("Target.closeTarget", {"targetId": page})
    router.pages.pop(page, None)


async def answers(router: Router) -> bool:
    """Whether the browser itself still does."""
    with contextlib.suppress(BrowserError, PageTimeoutError):
        await router.call("Browser.getVersion", timeout=_PROBE)
        return True
    return False

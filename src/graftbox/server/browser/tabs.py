"""What happens to tabs of Playwright's without anybody asking for it, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.async_api import CDPSession, Dialog, Page, Request

END_SECONDS = 10.0
GOES_MS = 3000
ERROR_PAGE_MS = 500
_ENDS = (
    "Target page, context or browser has been closed",
    "Target crashed",
    "No target with given id",
    "The page was closed before",
    "The process of the page ended before",
)
_ERROR_PAGE = "location.protocol === 'chrome-error:' && document.readyState === 'complete'"


async def quietly(work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(Exception):
        await work


async def answer(dialog: Dialog) -> None:
    """Nobody is there to answer: what a page asks before it is left gets a yes, all else a no."""
    with contextlib.suppress(Exception):
        if dialog.type == "beforeunload":
            await dialog.accept()
        else:
            await dialog.dismiss()


async def await_error_page(page: Page) -> None:
    """Have the page there with which Chromium says why there is no other: it comes behind the error."""
    with contextlib.suppress(Exception):
        await page.wait_for_function(_ERROR_PAGE, timeout=ERROR_PAGE_MS)


def is_end(error: Exception) -> bool:
    """Whether it says that a page is gone."""
    return any(text in str(error) for text in _ENDS)


async def goes(page: Page) -> bool:
    """Whether it has been closed or has crashed, or does so in a moment."""
    from playwright.async_api import TimeoutError as TooLate

    try:
        await page.wait_for_event("close", timeout=GOES_MS)
    except TooLate:
        return False
    except Exception:  # a crash, or closed before
        return True
    return True


async def end(page: Page, session: CDPSession | None) -> None:
    """Close a page however busy it is: its process ends first."""
    if session is not None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(session.send("Page.crash"), END_SECONDS)
    with contextlib.suppress(Exception):
        await asyncio.wait_for(page.close(), END_SECONDS)


def page_is_closed(request: Request) -> bool:
    try:
        return request.frame.page.is_closed()
    except Exception:  # a service worker's
        return True

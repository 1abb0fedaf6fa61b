"""The actions of the language, done with Playwright: its names, parameters, time limits and errors are those
of browsergym-core's functions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftbox.server.browser.actions import Call

if TYPE_CHECKING:
    from playwright.async_api import FrameLocator, Locator, Page

ELEMENT_MS = 500
"""Milliseconds in which an element must be ready to be acted on."""
CHOOSER_MS = 5000

Action = Callable[..., Awaitable[None]]


class Hand:
    """Does calls one after the other. ``page`` is where it is: it follows the tabs that it opens and chooses
    itself. ``activate`` is told of them, ``pages`` tells which there are; paths begin in ``folder``.
    """

    def __init__(
        self, page: Page, activate: Callable[[Page], None], pages: Callable[[], list[Page]], folder: str
    ) -> None:
        self.page = page
        self.activate = activate
        self.pages = pages
        self.folder = folder
        self._actions = {**_plain(self), **_of_elements(self), **_of_tabs(self)}
        for name, function in self._actions.items():
            # Python's messages begin with it.
            function.__qualname__ = name

    async def do(self, call: Call) -> None:
        """Raises what the action does: Playwright's errors, `ValueError`, or `TypeError` for parameters that
        it does not have.
        """
        await self._actions[call.name](*call.args, **call.kwargs)

    async def find(self, bid: Any) -> Locator:
        """The element with this id, inside the frames that its letters name; raises `ValueError`."""
        if not isinstance(bid, str):
            raise ValueError(f"expected a string, got {bid!r}")
        place: Page | FrameLocator = self.page
        end = 0
        while bid[end:] and not bid[end:].isnumeric():
            end += 1
            while bid[end:] and bid[end].isalpha() and bid[end].isupper():
                end += 1
            frame = place.get_by_test_id(bid[:end])
            if not await frame.count():
                raise ValueError(f'Could not find element with bid "{bid}"')
            place = frame.frame_locator(":scope")
        element = place.get_by_test_id(bid)
        if not await element.count():
            raise ValueError(f'Could not find element with bid "{bid}"')
        return element

    def choose(self, page: Page) -> None:
        self.page = page
        self.activate(page)

    def path(self, file: Any) -> Any:
        if isinstance(file, list | tuple):
            return [self.path(each) for each in file]
        return str(Path(self.folder, file)) if isinstance(file, str) else file


# The functions by name: Python's own errors about their parameters are part of the language.


def _plain(hand: Hand) -> dict[str, Action]:
    async def noop(wait_ms: float = 1000) -> None:
        await hand.page.wait_for_timeout(wait_ms)

    async def send_msg_to_user(text: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"Forbidden value: {text} is not a string")

    async def report_infeasible(reason: str) -> None:
        if not isinstance(reason, str):
            raise ValueError(f"Forbidden value: {reason} is not a string")

    async def scroll(delta_x: float, delta_y: float) -> None:
        await hand.page.mouse.wheel(delta_x, delta_y)

    return _named(noop, send_msg_to_user, report_infeasible, scroll)


def _of_elements(hand: Hand) -> dict[str, Action]:
    async def fill(bid: str, value: str) -> None:
        await (await hand.find(bid)).fill(value, force=False, timeout=ELEMENT_MS)

    async def select_option(bid: str, options: Any) -> None:
        await (await hand.find(bid)).select_option(options, force=False, timeout=ELEMENT_MS)

    async def click(bid: str, button: Any = "left", modifiers: Any = ()) -> None:
        element = await hand.find(bid)
        await element.click(button=button, modifiers=modifiers or [], force=False, timeout=ELEMENT_MS)

    async def dblclick(bid: str, button: Any = "left", modifiers: Any = ()) -> None:
        element = await hand.find(bid)
        await element.dblclick(button=button, modifiers=modifiers or [], force=False, timeout=ELEMENT_MS)

    async def hover(bid: str) -> None:
        await (await hand.find(bid)).hover(force=False, timeout=ELEMENT_MS)

    async def press(bid: str, key_comb: str) -> None:
        await (await hand.find(bid)).press(key_comb, timeout=ELEMENT_MS)

    async def focus(bid: str) -> None:
        await (await hand.find(bid)).focus(timeout=ELEMENT_MS)

    async def clear(bid: str) -> None:
        await (await hand.find(bid)).clear(timeout=ELEMENT_MS)

    async def drag_and_drop(from_bid: str, to_bid: str) -> None:
        await (await hand.find(from_bid)).hover(timeout=ELEMENT_MS)
        await hand.page.mouse.down()
        try:
            await (await hand.find(to_bid)).hover(timeout=ELEMENT_MS)
        finally:
            await hand.page.mouse.up()

    async def upload_file(bid: str, file: Any) -> None:
        element = await hand.find(bid)
        async with hand.page.expect_file_chooser(timeout=CHOOSER_MS) as chooser:
            await element.click(timeout=ELEMENT_MS)
        await (await chooser.value).set_files(hand.path(file))

    return _named(
        fill, select_option, click, dblclick, hover, press, focus, clear, drag_and_drop, upload_file
    )


def _of_tabs(hand: Hand) -> dict[str, Action]:
    async def goto(url: str) -> None:
        await hand.page.goto(url)

    async def go_back() -> None:
        await hand.page.go_back()

    async def go_forward() -> None:
        await hand.page.go_forward()

    async def new_tab() -> None:
        hand.choose(await hand.page.context.new_page())

    async def tab_close() -> None:
        context = hand.page.context
        await hand.page.close()
        pages = hand.pages()
        hand.choose(pages[-1] if pages else await context.new_page())

    async def tab_focus(index: int) -> None:
        page = hand.pages()[index]
        await page.bring_to_front()
        hand.choose(page)

    return _named(goto, go_back, go_forward, new_tab, tab_close, tab_focus)


def _named(*functions: Action) -> dict[str, Action]:
    return {function.__name__: function for function in functions}

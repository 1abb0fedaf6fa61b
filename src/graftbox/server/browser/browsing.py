"""`browse` and `browse_interactive`: what they are told becomes steps, and steps become observations.

The texts are those of the OpenHands action execution server 0.62.0.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import re
import shutil
import time
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from graftbox.errors import GraftboxError
from graftbox.server.browser.errors import BrowserError
from graftbox.server.browser.gym import Gym
from graftbox.server.browser.step import Step
from graftbox.wire.actions import Browse, BrowseInteractive
from graftbox.wire.observations import BrowseResult, DownloadResult, Failure, Observation

if TYPE_CHECKING:
    from graftbox.server.browser.driver import Driver
    from graftbox.server.sandbox import Sandbox

STEP_SECONDS = 120.0
"""The longest that a step takes."""
GRACE_SECONDS = 4.5
"""Clients wait for five seconds longer than an action may take."""
SCREENSHOTS = ".browser_screenshots"
DOWNLOADS = ".downloads"
DISABLED = "Browser functionality is not supported or disabled."
TOO_LONG = "Browser environment took too long to respond."
_EVALUATION = ("GET_EVAL_GOAL", "GET_EVAL_REWARDS")
_SCHEME = re.compile(r"(?i)(https?://|file:|about:|data:|blob:|chrome:|view-source:|javascript:)")
_VIEWED = (".pdf", ".png", ".jpg", ".jpeg", ".gif")
_HOST = re.compile(r"[A-Za-z0-9.-]+\.[A-Za-z0-9-]+(:\d+)?([/?#].*)?|localhost(:\d+)?([/?#].*)?")

log = logging.getLogger("graftbox.browser")


class Browsing:
    """One agent's use of the browser. Its steps run one after the other."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._driver: Driver | None = None
        self._gym: Gym | None = None
        self._generation = -1
        self._stepping = asyncio.Lock()
        self._downloaded = 0

    async def run(self, action: Browse | BrowseInteractive) -> Observation:
        """Do it; a page or a browser that fails is told in the observation."""
        if self.sandbox.browser.available() is not None:
            return Failure(DISABLED)
        if isinstance(action, Browse):
            url = await self._address(action.url)
            text = f'goto("{url}")'
        else:
            url = ""
            text = action.browser_actions
            if text in _EVALUATION:
                # There are no evaluation environments, so neither a goal nor rewards.
                return BrowseResult(*_reply(_nothing(action)))
        seconds = min(action.timeout or STEP_SECONDS, STEP_SECONDS)
        async with self._stepping:
            try:
                step = await self._step(text, seconds)
            except (GraftboxError, OSError) as error:
                return BrowseResult(*_reply(_failed(action, str(error), url), self._notes()))
            return await self._observed(action, text, step)

    async def _address(self, url: str) -> str:
        """An address that Chromium can open, of a file's path or a bare host name, too."""
        if not _SCHEME.match(url):
            path = Path(self.sandbox.cwd, url)
            if url.startswith("/") or not _HOST.fullmatch(url) or await asyncio.to_thread(path.exists):
                file = quote(str(path))
                viewed = path.suffix.lower() in _VIEWED
                url = (
                    f"{await self.sandbox.browser.viewer_url()}/view?path={file}"
                    if viewed
                    else f"file://{file}"
                )
            else:
                url = f"http://{url}"
        for character in '"\\\n\r\t':
            url = url.replace(character, quote(character))
        return url

    async def _step(self, text: str, seconds: float) -> Step:
        deadline = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                driver, gym = await self._ready()
                step = await driver.run(gym.step(text, deadline))
        except TimeoutError:
            await self._drop(restart=True)
            raise BrowserError(TOO_LONG) from None
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self._usable:
                raise BrowserError(await self._why(error)) from error
            if isinstance(error, GraftboxError):
                raise
            raise BrowserError(f"{type(error).__name__}: {error}") from error
        return step

    @property
    def _usable(self) -> bool:
        """Whether the tabs are still there."""
        gym, driver = self._gym, self._driver
        living = gym is not None and gym.alive and driver is not None and driver.alive
        return living and self.sandbox.browser.generation == self._generation

    async def _why(self, error: Exception) -> str:
        """What has ended: Chromium, if it has, else Playwright's Node.js process."""
        browser, generation = self.sandbox.browser, self._generation
        if self._gym is None:
            await self._drop()
            return f"The browser can't be used: {error}"
        driver = self._driver
        ended = driver is not None and not driver.alive
        await self._drop()
        reason = "The process of Playwright, which drives the browser, has ended." if ended else None
        # The end of a process may be known a moment after that of its connections.
        for _ in range(20):
            if reason is not None:
                break
            if not browser.running or browser.generation != generation:
                reason = browser.last_end
            await asyncio.sleep(0.05)
        return f"{reason or error} All tabs are gone; the next action begins with an empty one."

    async def _ready(self) -> tuple[Driver, Gym]:
        from graftbox.server.browser.driver import Driver
        from graftbox.server.browser.sight import Sight

        browser = self.sandbox.browser
        if self._gym is not None and self._driver is not None:
            if self._usable:
                return self._driver, self._gym
            await self._drop()
        driver = self._driver
        if driver is None:
            own = await browser.place() / f"d{os.urandom(4).hex()}"
            driver = self._driver = Driver(self.sandbox.identity, own)
        folder = self.sandbox.settings.working_dir
        downloads = str(Path(folder, DOWNLOADS))
        _, endpoint = await asyncio.gather(driver.run(driver.start()), browser.endpoint())
        connection = await driver.run(driver.connect(endpoint, browser.headers()))
        sight = partial(Sight, await browser.router(), asyncio.get_running_loop())
        gym = Gym(connection, sight, folder, downloads, self.sandbox.settings.limits)
        await driver.run(gym.open())
        self._gym = gym
        self._generation = browser.generation
        return driver, gym

    async def _drop(self, *, restart: bool = False) -> None:
        """Forget the tabs; the driver too when it is not of use any more."""
        gym, driver = self._gym, self._driver
        self._gym = None
        if driver is not None and (restart or not driver.alive):
            self._driver = None
            await driver.close()
        elif gym is not None and driver is not None:
            await driver.abandon(gym.browser)
        if restart:
            await self.sandbox.browser.stop()

    async def close(self) -> None:
        driver, self._driver, self._gym = self._driver, None, None
        if driver is not None:
            await driver.close()

    # Observations

    def _notes(self, *notes: str) -> str:
        """What else has happened since the last observation, one line for each thing."""
        lines = list(notes)
        router, gym = self.sandbox.browser.current, self._gym
        if router is not None and gym is not None and (away := router.turned_away.pop(gym.context_id, 0)):
            tabs = "1 new tab was" if away == 1 else f"{away} new tabs were"
            most = f"{router.max_pages} may be open (GRAFTBOX_MAX_PAGES)"
            lines.append(f"{tabs} closed at once, as {most}. Close those that are not needed.")
        return "".join(f"[{note}]\n" for note in lines)

    async def _observed(self, action: Browse | BrowseInteractive, text: str, step: Step) -> Observation:
        notes = self._notes(*step.notes)
        if step.downloads and isinstance(action, BrowseInteractive):
            try:
                return await self._download(text, step.downloads[-1], notes)
            except OSError as error:
                log.error("The download %s could not be copied: %s", step.downloads[-1], error)
        try:
            path = await self.sandbox.identity.call(self._save, step.picture)
        except OSError as error:
            log.error("The screenshot could not be saved: %s", error)
            path = None
        url = "data:image/png;base64,"
        extras = _extras(
            action,
            url=step.url,
            screenshot=url + step.picture,
            screenshot_path=path,
            set_of_marks=url + step.marked,
            error=bool(step.error),
            open_pages_urls=step.urls,
            active_page_index=step.active,
            axtree_object=step.tree,
            extra_element_properties=step.properties,
            last_browser_action=text,
            last_browser_action_error=step.error,
            focused_element_bid=step.focused,
        )
        return BrowseResult(*_reply((action, extras, step.text, step.tree_text), notes))

    def _save(self, picture: str) -> str:
        folder = Path(self.sandbox.settings.working_dir, SCREENSHOTS)
        folder.mkdir(exist_ok=True)
        now = datetime.datetime.now().strftime("%Y%m%d_%H%M%S_%f")
        path = folder / f"screenshot_{now}.png"
        path.write_bytes(b64decode(picture))
        return str(path)

    async def _download(self, text: str, source: str, notes: str) -> DownloadResult:
        self._downloaded += 1
        target = await self.sandbox.identity.call(self._copy, source, self._downloaded)
        return DownloadResult(
            f"Execution of the previous action {text} resulted in a file download. "
            f"The downloaded file is saved at location: {target}" + (f"\n{notes}" if notes else ""),
            target,
        )

    def _copy(self, source: str, number: int) -> str:
        folder = Path(self.sandbox.settings.working_dir)
        target = folder / f"file_{number}{Path(source).suffix}"
        shutil.copyfile(source, target)
        return str(target)


Parts = tuple[Browse | BrowseInteractive, dict[str, Any], str, str | None]


def _extras(action: Browse | BrowseInteractive, **given: Any) -> dict[str, Any]:
    return {
        "url": "",
        "trigger_by_action": "browse" if isinstance(action, Browse) else "browse_interactive",
        "screenshot": None,
        "screenshot_path": None,
        "set_of_marks": None,
        "error": False,
        "goal_image_urls": [],
        "open_pages_urls": [],
        "active_page_index": -1,
        "dom_object": {},
        "axtree_object": {},
        "extra_element_properties": {},
        "last_browser_action": "",
        "last_browser_action_error": "",
        "focused_element_bid": None,
        "filter_visible_only": False,
    } | given


def _nothing(action: Browse | BrowseInteractive) -> Parts:
    return action, _extras(action), "", None


def _failed(action: Browse | BrowseInteractive, error: str, url: str) -> Parts:
    given = {"url": url, "screenshot": "", "error": True, "last_browser_action_error": error}
    return action, _extras(action, **given), error, None


def _reply(parts: Parts, notes: str = "") -> tuple[str, dict[str, Any]]:
    """Text for the agent, and the extras, of which large ones are left out unless they are asked for."""
    action, extras, text, tree = parts
    content = f"[Current URL: {extras['url']}]\n{notes}"
    error = extras["last_browser_action_error"]
    if isinstance(action, Browse):
        if extras["error"]:
            content += _error("trying to visit the URL", error)
        content += (
            "============== BEGIN webpage content ==============\n"
            f"{text}\n============== END webpage content ==============\n"
        )
    else:
        content += f"[Focused element bid: {extras['focused_element_bid']}]\n"
        if extras["screenshot_path"]:
            content += f"[Screenshot saved to: {extras['screenshot_path']}]\n"
        content += "\n"
        if extras["error"]:
            content += _error("executing the last action", error)
        else:
            content += "[Action executed successfully.]\n"
        content += _tree(tree)
    if not action.return_axtree:
        extras = extras | {"axtree_object": {}, "extra_element_properties": {}}
    return content, extras


def _error(what: str, error: str) -> str:
    return (
        "================ BEGIN error message ===============\n"
        f"The following error occurred when {what}:\n"
        f"{error}\n"
        "================ END error message ===============\n"
    )


def _tree(tree: str | None) -> str:
    if tree is None:
        return "\n[Error encountered when processing the accessibility tree: 'nodes']"
    return (
        "Accessibility tree of the COMPLETE webpage:\n"
        "Note: [bid] is the unique alpha-numeric identifier at the beginning of lines for each element in "
        "the AXTree. Always use bid to refer to elements in your actions.\n"
        "============== BEGIN accessibility tree ==============\n"
        f"{tree}\n"
        "============== END accessibility tree ==============\n"
    )

"""The tool that uses the sandbox's browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mcp_types as types

from graftbox.errors import UsageError
from graftbox.server.mcp.running import apart, reporting
from graftbox.server.mcp.tool import CHANGES_ANYTHING, Call, Tool, picture, refused
from graftbox.wire.actions import Browse, BrowseInteractive
from graftbox.wire.observations import BrowseResult, DownloadResult, truncated

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

WAIT_SECONDS = 45.0


async def browse(call: Call) -> types.CallToolResult:
    given = call.given
    if (given["url"] is None) == (given["actions"] is None):
        raise UsageError("Give either url, to open a page, or actions, to do something on the open one.")
    action: Browse | BrowseInteractive
    if given["url"] is not None:
        action = Browse(given["url"], timeout=given["timeout"])
    else:
        action = BrowseInteractive(given["actions"], timeout=given["timeout"])
    async with reporting(call.context, "The browser is at work"):
        observation = await apart(call.sandbox.execute(action))
    if isinstance(observation, DownloadResult):
        return types.CallToolResult(content=[types.TextContent(text=observation.content)])
    if not isinstance(observation, BrowseResult):
        return refused(observation)
    content: list[Any] = [types.TextContent(text=truncated(observation.content))]
    shown = picture(observation.extras["set_of_marks" if given["marks"] else "screenshot"] or "")
    if given["screenshot"] and shown is not None:
        content.append(shown)
    return types.CallToolResult(content=content, is_error=observation.extras["error"])


def _has_browser(sandbox: Sandbox) -> bool:
    return sandbox.browser.available() is None


BROWSE = Tool(
    "browse",
    "Browser",
    "Use the sandbox's browser: open a page by its `url` and read it as text, or do `actions` on the open "
    "page and get its accessibility tree. The page is also shown as a picture. Actions are calls, one after "
    "the other, on elements that are named by the [bid] in front of their line in the tree: "
    'goto("https://…"), go_back(), go_forward(), new_tab(), tab_focus(0), tab_close(), noop(1000), '
    'scroll(0, 300), click("12"), dblclick("12"), hover("12"), fill("12", "text"), press("12", "Enter"), '
    'clear("12"), focus("12"), select_option("12", "blue"), drag_and_drop("12", "15"), '
    'upload_file("12", "/path"). With noop(0) the tree of the open page is returned as it is.',
    {
        "url": {
            "type": ["string", "null"],
            "default": None,
            "description": "The address of a page, or the path of a file in the sandbox.",
        },
        "actions": {"type": ["string", "null"], "default": None, "description": "Calls of actions."},
        "screenshot": {"type": "boolean", "default": True, "description": "Show the page as a picture."},
        "marks": {
            "type": "boolean",
            "default": False,
            "description": "In the picture, frame what can be used and label it with its bid.",
        },
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 120,
            "default": WAIT_SECONDS,
            "description": "Seconds that the actions may take.",
        },
    },
    (),
    browse,
    CHANGES_ANYTHING,
    present=_has_browser,
)

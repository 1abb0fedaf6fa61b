"""A session of the server's own with a page of Playwright's, for what is looked up in it.

Answers have no way through Playwright's Node.js process, which would read and write them once more: of a page
of 20,000 elements that takes longer than all that Chromium does for it.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from graftbox.server.browser.cdp import Params, Router, result_of

T = TypeVar("T")

_LARGE = 1024 * 1024
"""Bytes of an answer that is read piece by piece, so that other threads have their turn in between."""
_NODES = '"nodes":['


class Sight:
    """For coroutines on an event loop other than ``loop``, which is the router's. ``answered``: whether the
    page itself has done so since it was last looked at.
    """

    def __init__(self, router: Router, loop: asyncio.AbstractEventLoop) -> None:
        self.router = router
        self._loop = loop
        self._session = ""
        self.answered = False

    async def open(self, target: str) -> None:
        """Have the session with this page; raises `BrowserError` or `PageTimeoutError`."""
        self._session = await self._there(self.router.attach(target, self._hear))

    async def ask(self, method: str, params: Params | None = None) -> Any:
        """The result of a command, waited for as long as it takes; raises `BrowserError`."""
        message = await self._there(self.router.fetch(method, params or {}, self._session))
        return result_of(method, _read(message))

    def _hear(self, method: str, params: Params) -> None:
        if method == "Inspector.targetCrashed":
            self.router.abandon(self._session, "The process of the page ended")

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def _read(message: bytes) -> Any:
    if len(message) < _LARGE:
        return json.loads(message)
    text = message.decode("utf-8", "surrogatepass")
    start = text.find(_NODES, 0, 64)
    if start < 0:
        return json.loads(text)
    # An accessibility tree: {"id":1,"result":{"nodes":[{…},…]},"sessionId":"…"}
    nodes = []
    scan = json.JSONDecoder().raw_decode
    at = start + len(_NODES)
    # Nothing of it is garbage: looking for some takes twice as long as reading.
    collecting = gc.isenabled()
    gc.disable()
    try:
        while text[at] != "]":
            node, at = scan(text, at)
            nodes.append(node)
            at += text[at] == ","
    finally:
        if collecting:
            gc.enable()
    return {"result": {"nodes": nodes}}

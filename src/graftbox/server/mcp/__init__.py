"""The Model Context Protocol: the sandbox as an MCP server, and a way to the MCP servers inside it.

``/mcp`` offers the sandbox's own tools and those of the stdio servers, over streamable HTTP; ``/mcp/sse`` the
stdio servers' alone, over the older transport that OpenHands clients use. This module is light; the rest of
the package brings the protocol's library in and is imported, on a thread, with the first request.
"""

from __future__ import annotations

import asyncio
import gc
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from graftbox.errors import UnsupportedError

if TYPE_CHECKING:
    from graftbox.server.mcp.gateway import Gateway
    from graftbox.server.sandbox import Sandbox


def available() -> str | None:
    """Why MCP does not work here, None when it does."""
    if find_spec("mcp") is None:
        return "This bundle has no MCP component; add the component mcp to the bundle to use it."
    return None


class Mcp:
    """The sandbox's MCP gateway, made with its first use."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._gateway: Gateway | None = None
        self._opening = asyncio.Lock()

    @property
    def running(self) -> bool:
        return self._gateway is not None

    async def gateway(self) -> Gateway:
        """The running gateway; raises `UnsupportedError` without the protocol's library."""
        if self._gateway is None:
            if reason := available():
                raise UnsupportedError(reason)
            async with self._opening:
                if self._gateway is None:
                    gateway: Gateway = (await asyncio.to_thread(_load)).Gateway(self.sandbox)
                    await gateway.open()
                    self._gateway = gateway
        return self._gateway

    async def close(self) -> None:
        if self._gateway is not None:
            await self._gateway.close()


def _load() -> Any:
    module = import_module("graftbox.server.mcp.gateway")
    # Hundreds of thousands of objects that will never be garbage: a search of them would hold the loop up.
    gc.freeze()
    return module

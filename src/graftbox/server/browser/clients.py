"""Outside clients of the protocol: one WebSocket each, of messages as Chromium's own."""

from __future__ import annotations

import asyncio

from graftbox.server.browser.cdp import Router
from graftbox.server.browser.client import Client
from graftbox.server.browser.errors import BrowserError
from graftbox.server.channel import Channel

_GONE = 1011


async def serve(channel: Channel, router: Router) -> None:
    """Serve an accepted WebSocket until the client or the browser goes."""
    try:
        client = await router.connect()
    except BrowserError as error:
        await channel.close(_GONE, str(error))
        return
    tasks = [asyncio.ensure_future(_show(channel, client)), asyncio.ensure_future(_listen(channel, client))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await channel.close(_GONE if router.ended.is_set() else 1000, client.reason)
    except BrowserError as error:
        await channel.close(_GONE, str(error))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.shield(router.disconnect(client))


async def _show(channel: Channel, client: Client) -> None:
    while (message := await client.next()) is not None:
        await channel.send_text(message.decode("utf-8", "replace"))


async def _listen(channel: Channel, client: Client) -> None:
    while (message := await channel.receive()) is not None:
        await client.feed(message if isinstance(message, str) else message.decode("utf-8", "replace"))

"""What the browser's own machine is served on the loopback interface: the file viewer and a way to Chromium.

The file viewer is OpenHands': ``GET /`` tells that it runs, ``GET /view?path=/a/picture.png`` shows a file,
and ``/tmp/oh-server-url`` holds the address. Playwright, which the server itself drives the browser with,
connects to ``/cdp/TOKEN``: the token is known to nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from graftbox.server.browser import clients, viewer
from graftbox.server.channel import Channel
from graftbox.server.host import Host
from graftbox.server.http import Message, Receive, Send

if TYPE_CHECKING:
    from graftbox.server.browser.browser import Browser

ADDRESS_FILE = Path("/tmp/oh-server-url")
_PORTS = 64
_CONNECTIONS = 32
_OWN_NAMES = frozenset((b"localhost", b"127.0.0.1"))


class Loopback:
    """``url`` once it is open."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.url = ""
        self._token = os.urandom(16).hex()
        self._host: Host | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Listen, once; raises `OSError`."""
        async with self._opening:
            if self._host is not None:
                return
            host = Host(self._serve, lambda path: path.startswith("/cdp/"), _CONNECTIONS)
            await _listen(host, self.browser.sandbox.settings.port)
            self._host = host
            self.url = f"http://localhost:{host.port}"
        # As the user of the actions, who may then remove or change it.
        with contextlib.suppress(OSError):
            await self.browser.sandbox.identity.call(_write, self.url)

    async def endpoint(self) -> str:
        await self.open()
        assert self._host is not None
        return f"ws://127.0.0.1:{self._host.port}/cdp/{self._token}"

    async def close(self) -> None:
        if self._host is not None:
            await self._host.close()
            with contextlib.suppress(OSError):
                await self.browser.sandbox.identity.call(_remove, self.url)

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").partition(b":")[0]
        if host not in _OWN_NAMES:
            # A foreign name that was made to mean this address (DNS rebinding).
            status, kind, body = viewer.denied()
        else:
            query = parse_qs(scope["query_string"].decode("ascii", "replace"), errors="surrogateescape")
            path = query.get("path", [None])[-1]
            identity = self.browser.sandbox.identity
            status, kind, body = await viewer.respond(identity, scope["method"], scope["path"], path)
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _connect(self, scope: Message, receive: Receive, send: Send) -> None:
        import hmac  # brings libcrypto in, which no start should wait for

        if not hmac.compare_digest(scope["path"].encode("utf-8", "replace"), f"/cdp/{self._token}".encode()):
            await send({"type": "websocket.close"})
            return
        channel = Channel(self.browser.sandbox, scope, receive, send, {})
        await channel.accept()
        await clients.serve(channel, await self.browser.router())


async def _listen(host: Host, port: int | None) -> None:
    """On the first free port behind the server's own, as OpenHands' clients may expect, else on any."""
    for number in [*range(port + 1, min(port + _PORTS, 65536)), 0] if port else [0]:
        try:
            await host.listen("127.0.0.1", number, None)
        except OSError:
            if number == 0:
                raise
        else:
            return


def _write(url: str) -> None:
    ADDRESS_FILE.write_text(url, encoding="ascii")


def _remove(url: str) -> None:
    if ADDRESS_FILE.read_text(encoding="ascii") == url:
        ADDRESS_FILE.unlink()

"""The plugins' own pages: ``/v1/proxy/{plugin}/…`` (gate.py, proxy.py)."""

from __future__ import annotations

from graftbox.errors import NotFoundError
from graftbox.server.app import refusal
from graftbox.server.gate import Gate, whole
from graftbox.server.http import Application, Message, Receive, Send
from graftbox.server.request import HTTPError
from graftbox.server.sandbox import Sandbox

PREFIX = "/v1/proxy"


async def mount(sandbox: Sandbox) -> Application:
    """The application that finds the plugin in the path of each request."""
    key = sandbox.settings.key

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(PREFIX).strip("/").partition("/")[0]
        trusted = scope["state"].get("trusted", False)
        try:
            plugin = await sandbox.plugins.get(name)
        except NotFoundError as error:
            # Which plugins there are is told only to whom it concerns.
            refused = refusal(error if trusted else HTTPError(403, "Invalid API Key"), "")
            await whole(send, refused)
            return
        gate = Gate(plugin, sandbox.plugins.token(name), f"{PREFIX}/{name}", key.encode() if key else None)
        await gate.serve(scope, receive, send, trusted=trusted)

    return application

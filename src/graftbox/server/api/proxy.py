"""Pages of plugins and ports (gate.py): ``/v1/proxy/{plugin}/…`` and ``/v1/proxy/port/{number}/…``."""

from __future__ import annotations

from graftbox.errors import NotFoundError
from graftbox.server.app import refusal
from graftbox.server.gate import Gate, whole
from graftbox.server.http import Application, Message, Receive, Send
from graftbox.server.ports import PORT, token
from graftbox.server.request import HTTPError
from graftbox.server.sandbox import Sandbox
from graftbox.server.upstream import PluginUpstream, PortUpstream, port_of

PREFIX = "/v1/proxy"


async def mount(sandbox: Sandbox) -> Application:
    """The application that finds the plugin or port in the path of each request."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        trusted = scope["state"].get("trusted", False)
        try:
            gate = await _gate(sandbox, scope["path"].removeprefix(PREFIX + "/"))
        except NotFoundError as error:
            # Which plugins there are is told only to whom it concerns.
            refused = refusal(error if trusted else HTTPError(403, "Invalid API Key"), "")
            await whole(send, refused)
            return
        await gate.serve(scope, receive, send, trusted=trusted)

    return application


async def _gate(sandbox: Sandbox, path: str) -> Gate:
    """Raises `NotFoundError`."""
    key = sandbox.settings.key.encode() if sandbox.settings.key else None
    name, _, rest = path.partition("/")
    if name == PORT:
        text = rest.partition("/")[0]
        if (port := port_of(text)) is None:
            raise NotFoundError(f"{text or 'Nothing'} is no port; it is a number from 1 to 65535.")
        return Gate(PortUpstream(port), token(sandbox, port), f"{PREFIX}/{PORT}/{port}", key)
    plugin = await sandbox.plugins.get(name)
    if plugin.manifest.serve is None:
        raise NotFoundError(f"The plugin {name} has nothing to show: its manifest has no serve.")
    prefix, ports = f"{PREFIX}/{name}", name == "vscode"
    return Gate(PluginUpstream(plugin), sandbox.plugins.token(name), prefix, key, ports=ports)

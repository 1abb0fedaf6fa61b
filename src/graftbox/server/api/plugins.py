"""Plugins over HTTP: ``/v1/plugins``."""

from __future__ import annotations

from typing import Any

from graftbox.server import events
from graftbox.server.plugins.plugin import Plugin
from graftbox.server.request import Request, Response, answer
from graftbox.server.sandbox import Sandbox
from graftbox.server.shapes.plugins import LOG, WAIT


async def list_all(request: Request) -> Response:
    request.arguments({})
    plugins = request.sandbox.plugins
    await plugins.discover()
    return answer({"plugins": [_shown(request.sandbox, plugin) for plugin in plugins.plugins.values()]})


async def show(request: Request) -> Response:
    request.arguments({})
    return answer(_shown(request.sandbox, await _plugin(request)))


async def start(request: Request) -> Response:
    wait = request.arguments(WAIT)["wait"]
    plugin = await _plugin(request)
    plugin.start()
    return await _settled(request, plugin, wait)


async def stop(request: Request) -> Response:
    request.arguments({})
    plugin = await _plugin(request)
    await plugin.stop()
    return answer(_shown(request.sandbox, plugin))


async def restart(request: Request) -> Response:
    wait = request.arguments(WAIT)["wait"]
    plugin = await _plugin(request)
    await plugin.restart()
    return await _settled(request, plugin, wait)


async def read_log(request: Request) -> Response:
    given = request.arguments(LOG)
    journal = (await _plugin(request)).journal
    await request.within(given["wait"], journal.beyond(given["offset"]))
    offset, data = journal.read(given["offset"], given["limit"])
    if given["format"] == "raw":
        return Response(200, data, "application/octet-stream")
    text, size = events.split(data, whole=len(data) < 4)
    return answer({"offset": offset, "end": offset + size, "closed": False, **text})


async def _settled(request: Request, plugin: Plugin, wait: float) -> Response:
    await request.body()
    await request.within(wait, plugin.settled(wait))
    return answer(_shown(request.sandbox, plugin))


async def _plugin(request: Request) -> Plugin:
    return await request.sandbox.plugins.get(request.parameters["name"])


def _shown(sandbox: Sandbox, plugin: Plugin) -> dict[str, Any]:
    serve = plugin.manifest.serve
    path = f"/v1/proxy/{plugin.name}/" if serve else None
    link = None
    if serve and path:
        place, _, query = serve.open.partition("?")
        token = sandbox.plugins.token(plugin.name)
        link = f"{path}{place.lstrip('/')}?tkn={token}{'&' if query else ''}{query}"
    chosen = plugin.name in sandbox.plugins.chosen
    return {**plugin.describe(), "chosen": chosen, "path": path, "link": link}

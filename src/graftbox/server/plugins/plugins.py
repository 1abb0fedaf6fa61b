"""The plugins of a sandbox by name: which there are, which were chosen, what they need of one another."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from graftbox.errors import GraftboxError, NotFoundError, UnsupportedError
from graftbox.server.plugins.builtin import AGENT_SKILLS, JupyterPlugin
from graftbox.server.plugins.manifest import NAME, Manifest
from graftbox.server.plugins.plugin import Plugin

if TYPE_CHECKING:
    from graftbox.server.plugins.found import Place
    from graftbox.server.plugins.launch import Launch
    from graftbox.server.sandbox import Sandbox

log = logging.getLogger("graftbox.plugins")


class Plugins:
    """``plugins`` holds those that are known so far: the server's own at once, others from `discover` on."""

    def __init__(self, sandbox: Sandbox) -> None:
        from graftbox.server.vscode import VSCodePlugin

        self.sandbox = sandbox
        self.chosen = sandbox.settings.plugins
        own = (
            JupyterPlugin(sandbox, self._prepare),
            Plugin(AGENT_SKILLS, self._prepare),
            VSCodePlugin(sandbox, self._prepare),
        )
        self.plugins: dict[str, Plugin] = {plugin.name: plugin for plugin in own}
        self.unread: dict[str, Place] = {}
        """Those of which only the place is known: their manifest is in code that is not imported yet."""
        self._discovering = asyncio.Lock()
        self._discovered = False

    async def discover(self) -> None:
        """Find the plugins in folders and distributions, once; a manifest that can't be read is reported."""
        from graftbox.server.plugins.found import load, places

        async with self._discovering:
            if self._discovered:
                return
            for name, place in (
                await asyncio.to_thread(places, self.sandbox.settings.plugin_folders)
            ).items():
                if name in self.plugins:
                    continue
                plugin = Plugin(_unread(place), self._prepare)
                try:
                    if place.is_code:
                        self.unread[name] = place
                    else:
                        plugin.manifest = await asyncio.to_thread(load, place, self._time_limit)
                except GraftboxError as error:
                    self.unread[name] = place  # so that a start reads it again
                    plugin.state, plugin.reason = "failed", str(error)
                # Known from here on: what is started before its manifest is read would start nothing.
                self.plugins[name] = plugin
            self._discovered = True

    async def get(self, name: str) -> Plugin:
        """Raises `NotFoundError`."""
        if name not in self.plugins and NAME.fullmatch(name):
            await self.discover()
        try:
            return self.plugins[name]
        except KeyError:
            raise NotFoundError(
                f"There is no plugin {name}; GET /v1/plugins lists those of this sandbox."
            ) from None

    async def start_chosen(self) -> None:
        """Start what was chosen, all at once; failures are logged and reported."""
        for name in self.chosen:
            try:
                (await self.get(name)).start()
            except NotFoundError as error:
                log.error("%s", error)

    async def kernel_code(self) -> list[tuple[str, str]]:
        """What new main kernels begin with: names of plugins and the code of each."""
        for name in self.chosen:
            plugin = await self.get(name)
            if name in self.unread and plugin.state != "failed":
                try:
                    await self._read(plugin)
                except GraftboxError as error:
                    log.error("The plugin %s has no part in the kernel: %s", name, error)
        return [
            (plugin.name, plugin.manifest.kernel)
            for plugin in self.plugins.values()
            if plugin.manifest.kernel
            and (plugin.state == "running" or (plugin.name in self.chosen and plugin.state in _COMING))
        ]

    def kernel_failed(self, name: str, reason: str) -> None:
        """The code of the plugin ``name`` did not run in a new kernel."""
        log.error("The plugin %s could not prepare the kernel: %s", name, reason)
        self.plugins[name].reason = f"Its code failed in the kernel: {reason[-500:]}"

    def token(self, name: str) -> str:
        """What lets a browser in to the plugin ``name``: the same for as long as the container runs."""
        import hmac  # brings libcrypto in, which no start should wait for

        return hmac.digest(self.sandbox.settings.secret.encode(), b"plugin " + name.encode(), "sha256").hex()[
            :40
        ]

    @property
    def _time_limit(self) -> float:
        return self.sandbox.settings.plugin_seconds

    async def _read(self, plugin: Plugin) -> None:
        from graftbox.server.plugins.found import load

        plugin.manifest = await asyncio.to_thread(load, self.unread[plugin.name], self._time_limit)
        self.unread.pop(plugin.name, None)

    async def _prepare(self, plugin: Plugin) -> Launch:
        from graftbox.server.plugins.launch import launch

        if plugin.name in self.unread:
            await self._read(plugin)
        await self._check_circle(plugin.manifest, ())
        limit = plugin.manifest.time_limit or self._time_limit
        for name in plugin.manifest.needs.plugins:
            other = await self.get(name)
            if other.state not in ("running", "done"):
                other.start()
                await other.settled(limit)
            if other.state not in ("running", "done"):
                because = f": {other.reason}" if other.reason else "."
                raise UnsupportedError(f"It needs the plugin {name}, which is not running{because}")
        return await launch(self.sandbox, plugin.manifest, self._time_limit)

    async def _check_circle(self, manifest: Manifest, above: tuple[str, ...]) -> None:
        path = (*above, manifest.name)
        for name in manifest.needs.plugins:
            if name in path:
                raise UnsupportedError(f"Plugins need one another in a circle: {' → '.join((*path, name))}.")
            other = await self.get(name)
            if name in self.unread:
                await self._read(other)
            await self._check_circle(other.manifest, path)

    async def close(self) -> None:
        await asyncio.gather(*(plugin.close() for plugin in self.plugins.values()))


_COMING = ("off", "starting", "waiting", "running")


def _unread(place: Place) -> Manifest:
    source = f"folder {place.folder}" if place.folder else f"entry point of {place.distribution}"
    return Manifest(place.name, source=source)

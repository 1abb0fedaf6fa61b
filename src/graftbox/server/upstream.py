"""What answers behind the gate (gate.py): a plugin's program, or what listens on a port of the sandbox."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from typing import Any, Protocol

from graftbox.server.host import OWN_PORTS
from graftbox.server.plugins.plugin import Plugin, UnavailableError
from graftbox.server.request import HTTPError

PATIENCE = 10.0
"""Seconds that a request waits for a plugin that is being started, or for a port that takes no connection."""
RETRY = 2.0
"""Seconds after which a browser's page asks again whether something listens on its port."""
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True)
class Link:
    """A connection to an upstream; ``ended`` is done when its program has ended, where that can be known."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ended: asyncio.Future[Any] | None = None


class Upstream(Protocol):
    """``host``: what it shall take for its own name, where it is not the client's; ``way_in``: how a browser
    gets a link to it.
    """

    host: bytes | None
    way_in: str

    async def connect(self) -> Link:
        """Raises `UnavailableError`."""

    def broke_off(self) -> UnavailableError:
        """It closed the connection, or gave no answer in HTTP, before anything of an answer had come."""


class PluginUpstream:
    """A plugin's program, which is started where it is to be on demand."""

    host: bytes | None = None

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.way_in = f"GET /v1/plugins/{plugin.name}"

    async def connect(self) -> Link:
        """The plugin may have died a moment ago without anybody knowing it yet."""
        plugin, loop = self.plugin, asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while True:
            await plugin.running(max(0.0, until - loop.time()))
            assert plugin.launch is not None
            try:
                reader, writer = await plugin.launch.connect()
            except OSError as error:
                if loop.time() > until:
                    raise plugin.unavailable() from error
            else:
                return Link(reader, writer, plugin.program.ended if plugin.program is not None else None)
            await asyncio.sleep(0.02)

    def broke_off(self) -> UnavailableError:
        return UnavailableError(
            f"The plugin {self.plugin.name} ended, or closed the connection, before it had answered. "
            "Ask again; one that has died is started again.",
            1.0,
        )


class PortError(UnavailableError):
    """A port of the sandbox does not answer, or not in HTTP."""

    http_status = 502


class PortUpstream:
    """What speaks HTTP on a TCP port of the sandbox, as ``localhost`` reaches it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host: bytes | None = b"localhost:%d" % port
        self.way_in = f"GET /v1/ports/{port}"

    async def connect(self) -> Link:
        """Over IPv4, else IPv6; raises `HTTPError` for a port of this server."""
        if self.port in OWN_PORTS:
            raise HTTPError(400, f"Port {self.port} is this server's own. Ask it without the proxy.")
        for address in ("127.0.0.1", "::1"):
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection(address, self.port)
            except TimeoutError as error:
                raise PortError(f"Port {self.port} of the sandbox takes no connection.", RETRY) from error
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    raise
            else:
                return Link(reader, writer)
        raise PortError(
            f"Nothing listens on port {self.port} of the sandbox. Start a server there and ask again; it may "
            "listen on 127.0.0.1, ::1 or all addresses.",
            RETRY,
        )

    def broke_off(self) -> UnavailableError:
        return PortError(
            f"What listens on port {self.port} of the sandbox closed the connection, or does not speak HTTP. "
            "See what it has printed.",
            None,
        )


def port_of(text: str) -> int | None:
    """The number of a TCP port, as it is written in a path; None for anything else."""
    if text.isascii() and text.isdigit() and text[0] != "0" and len(text) < 6 and int(text) < 65536:
        return int(text)
    return None

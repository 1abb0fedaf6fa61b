"""The parts of a running server, put together and taken down in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from graftbox.errors import TransportError
from graftbox.server import routes
from graftbox.server.app import App
from graftbox.server.child import Child
from graftbox.server.environment import Environment
from graftbox.server.http import Host
from graftbox.server.sandbox import Sandbox
from graftbox.server.settings import Settings

log = logging.getLogger("graftbox.server")


async def serve(settings: Settings, environment: Environment) -> None:
    """Listen, start the shell and the child, and wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    key = settings.key
    if settings.auth and key is None:
        key = os.urandom(24).hex()
        print(f"SESSION_API_KEY is not set; this session's key is {key}", file=sys.stderr, flush=True)
    for option in settings.ignored:
        log.warning("%s has no effect: not supported in this version.", option)
    sandbox = Sandbox(settings, environment)
    server = Host(App(sandbox, key), routes.takes_websockets)
    try:
        await server.listen(settings.host, settings.port, settings.socket)
    except OSError as error:
        where = f"port {settings.port}" if settings.port is not None else str(settings.socket)
        raise TransportError(
            f"The server can't listen on {where}: {error.strerror}. Choose another port."
        ) from error
    if server.port is not None:
        print(f"Listening on {settings.host}:{server.port}", file=sys.stderr, flush=True)
    preparing = loop.create_task(sandbox.prepare())
    child = Child(settings.child, environment, settings.child_dir) if settings.child else None
    if child:
        child.start()
        watching = loop.create_task(child.watch())
    await stop.wait()
    preparing.cancel()
    await server.close()
    if child:
        await child.stop()
        watching.cancel()
    await sandbox.close()

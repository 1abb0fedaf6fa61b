"""The parts of a running server, put together and taken down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import sys

from graftbox.errors import TransportError
from graftbox.server import routes, users, workspace
from graftbox.server.app import App
from graftbox.server.child import Child
from graftbox.server.environment import Environment
from graftbox.server.host import Host
from graftbox.server.http import Application, Message, Receive, Send
from graftbox.server.inheritance import Inheritance
from graftbox.server.sandbox import Sandbox
from graftbox.server.settings import Settings

log = logging.getLogger("graftbox.server")


async def serve(
    settings: Settings,
    environment: Environment,
    inheritance: Inheritance | None = None,
    *,
    restarted: bool = False,
) -> None:
    """Listen, start the shell and the child, and wait for SIGTERM or SIGINT.

    ``restarted``: in the place of a server that was killed, whose child goes on without a supervisor, and
    whose sockets are in the ``inheritance``.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for note in settings.notes:
        log.warning(note)
    if settings.key is None:
        log.warning(
            "No key is asked for: whoever reaches this server's port can run commands in this sandbox."
        )
    sandbox = Sandbox(settings, environment)
    sandbox.sessions.limit = settings.limits.max_sessions
    sandbox.identity = users.choose(settings, environment)
    ready = asyncio.Event()
    application = _once(ready, App(sandbox, settings.key))
    connections = min(settings.limits.max_connections, _affordable_connections())
    server = Host(application, routes.takes_websockets, connections, routes.tunnels)
    await _listen(server, settings, inheritance)
    preparing = loop.create_task(_prepare(sandbox, ready))
    child = (
        Child(settings.child, environment, settings.child_dir) if settings.child and not restarted else None
    )
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


def _affordable_connections() -> int:
    """Half of the files that may be open; the others are for what the clients ask for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // 2) if soft != resource.RLIM_INFINITY else sys.maxsize


async def _listen(server: Host, settings: Settings, inheritance: Inheritance | None) -> None:
    try:
        await server.listen(settings.host, settings.port, settings.socket, inheritance)
    except OSError as error:
        where = f"port {settings.port}" if settings.port is not None else str(settings.socket)
        raise TransportError(
            f"The server can't listen on {where}: {error.strerror}. Choose another port."
        ) from error
    if server.port is not None:
        print(f"Listening on {settings.host}:{server.port}", file=sys.stderr, flush=True)


async def _prepare(sandbox: Sandbox, ready: asyncio.Event) -> None:
    settings = sandbox.settings
    try:
        await asyncio.to_thread(workspace.prepare, settings.working_dir, sandbox.identity, settings.group)
    except RuntimeError as error:  # no thread can be started: the limit on processes
        log.error("The working folder was not prepared: %s.", error)
    finally:
        ready.set()
    await sandbox.prepare()
    with contextlib.suppress(RuntimeError):
        await asyncio.to_thread(routes.preload)


def _once(ready: asyncio.Event, application: Application) -> Application:
    """``application``, with every request that needs a key waiting for ``ready``."""

    async def patient(scope: Message, receive: Receive, send: Send) -> None:
        if not ready.is_set() and scope["path"] not in routes.OPEN:
            await ready.wait()
        await application(scope, receive, send)

    return patient

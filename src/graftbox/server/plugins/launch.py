"""How a plugin's manifest becomes a started program: placeholders, user, environment, where it listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.errors import FormatError, UnsupportedError
from graftbox.server import runtime
from graftbox.server.become import become, environment_for
from graftbox.server.environment import BUNDLE, bundled, find_program
from graftbox.server.identity import Identity
from graftbox.server.kernel.process import Plan
from graftbox.server.plugins.manifest import Manifest, Serve, filled

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

_MODULES = {"jupyter": "ipykernel", "mcp": "mcp"}
_FILES = {"browser": "browser", "vscode": ".openvscode-server/bin/openvscode-server"}
PROBE_SECONDS = 5.0
"""That one look at a health path may take."""


@dataclass(frozen=True)
class Launch:
    """``argv`` empty: nothing is to run. ``socket`` or ``port`` is where it will answer; ``probe`` says
    whether it does.
    """

    argv: tuple[str, ...]
    plan: Plan
    time_limit: float
    socket: str = ""
    port: int = 0
    probe: Callable[[], asyncio.Future[bool]] | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises `OSError`."""
        if self.socket:
            return await asyncio.open_unix_connection(self.socket)
        return await asyncio.open_connection("127.0.0.1", self.port)


async def launch(sandbox: Sandbox, manifest: Manifest, time_limit: float) -> Launch:
    """Raises `GraftboxError` where the sandbox lacks what it needs."""
    await sandbox.sessions.prepare()
    identity = _identity(sandbox, manifest.user)
    assert sandbox.sessions.folder is not None
    place = runtime.place_for(sandbox.sessions.folder, identity)
    port = _port(manifest.serve)
    # A new one for each start: what is left of the last one may still listen on the old one.
    path = f"{place}/p{os.urandom(3).hex()}" if manifest.serve and manifest.serve.socket else ""
    values = {
        "folder": manifest.folder,
        "port": str(port),
        "prefix": f"/v1/proxy/{manifest.name}",
        "python": sandbox.environment.get("GRAFTBOX_OWN_PYTHON") or sys.executable,
        "runtime": str(place),
        "socket": path,
        "workspace": sandbox.settings.working_dir,
    }
    if manifest.serve and manifest.serve.socket:
        path = filled(manifest.serve.socket, values)
    environment = {name: filled(value, values) for name, value in manifest.environment.items()}
    entries = environment_for(sandbox, identity, environment)
    argv = tuple(filled(word, values) for word in manifest.start)
    search = next((os.fsdecode(each[5:]) for each in entries if each.startswith(b"PATH=")), None)
    _check_needs(manifest, search)
    if argv:
        argv = (_program(argv[0], manifest.folder, search), *argv[1:])
    plan = Plan(filled(manifest.cwd, values), identity, entries)
    found = Launch(argv, plan, manifest.time_limit or time_limit, path, port)
    if manifest.serve is None:
        return found
    health = manifest.serve.health
    return Launch(**{**vars(found), "probe": lambda: asyncio.ensure_future(_answers(found, health))})


def _identity(sandbox: Sandbox, user: str) -> Identity:
    if user == "server":
        return Identity.own()
    return become(sandbox, None if user == "sandbox" else user)


def _port(serve: Serve | None) -> int:
    if serve is None or not serve.port:
        return 0
    if serve.port == "{port}":
        with socket.create_server(("127.0.0.1", 0)) as free:
            return int(free.getsockname()[1])
    if not re.fullmatch("[0-9]{1,5}", serve.port) or not 0 < int(serve.port) < 65536:
        raise FormatError(f"{serve.port!r} is no port; give a number, or {{port}} for a free one.")
    return int(serve.port)


def _program(name: str, folder: str, search: str | None) -> str:
    """The path of the program ``name``; one with a slash in it is meant from the plugin's own folder."""
    if "/" in name:
        path = str(Path(folder, name))
        found = path if os.access(path, os.X_OK) and not Path(path).is_dir() else None
    else:
        found = find_program(name, search) or bundled(name)
    if found is None:
        raise UnsupportedError(f"Its program {name} is not an executable file of this sandbox.")
    return found


def _check_needs(manifest: Manifest, search: str | None) -> None:
    for name in manifest.needs.components:
        if not has_component(name):
            raise UnsupportedError(f"It needs the component {name}, which this bundle has not; add it.")
    for name in manifest.needs.programs:
        with contextlib.suppress(UnsupportedError):
            _program(name, manifest.folder, search)
            continue
        raise UnsupportedError(f"It needs the program {name}, which this sandbox has not; install it.")


def has_component(name: str) -> bool:
    """Whether the bundle, or the Python the server runs on, has what this component brings."""
    if name in _FILES:
        return (BUNDLE / _FILES[name]).exists()
    if name in _MODULES:
        with contextlib.suppress(ImportError, ValueError):
            return find_spec(_MODULES[name]) is not None
    return name == "core"


async def _answers(found: Launch, health: str) -> bool:
    """Whether it takes connections and, where there is a path for it, answers with a status below 500."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await found.connect()
            try:
                if not health:
                    return True
                writer.write(
                    f"GET {health} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
                )
                status = (await reader.readline()).split(b" ")
                return len(status) > 1 and status[1].isdigit() and int(status[1]) < 500
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False

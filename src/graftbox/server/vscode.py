"""VS Code in the browser: the plugin ``vscode``, its token, its own port, and its settings.

The program is the bundle's ``.openvscode-server`` (docs/vscode.md). It listens on a Unix socket in a folder
that only its user enters, without a token of its own: who may come in is decided before it, by the gate
(gate.py), at ``/v1/proxy/vscode/`` and, where a client of OpenHands has chosen one in ``VSCODE_PORT``, at
that port. The port is this server's, so it answers also while VS Code starts or has died.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from graftbox.errors import GraftboxError
from graftbox.server import runtime
from graftbox.server.become import environment_for
from graftbox.server.environment import BUNDLE, bundled, find_shells
from graftbox.server.plugins.manifest import Manifest, Needs, Serve
from graftbox.server.plugins.plugin import Plugin

if TYPE_CHECKING:
    from graftbox.server.gate import Gate
    from graftbox.server.host import Host
    from graftbox.server.http import Message, Receive, Send
    from graftbox.server.plugins.launch import Launch
    from graftbox.server.sandbox import Sandbox

NAME = "vscode"
PROGRAM = BUNDLE / ".openvscode-server/bin/openvscode-server"
OPTIONS = ("--socket-path", "{socket}", "--without-connection-token", "--disable-workspace-trust")
ENVIRONMENT = "terminal.env"
"""The file with the variables of its terminals (plain_terminal.py)."""
READY = "Extension host agent listening on"
WORKSPACE_SETTINGS = {
    "workbench.colorTheme": "Default Dark Modern",
    "workbench.startupEditor": "none",
    "chat.commandCenter.enabled": False,
}
"""What OpenHands' server writes into the workspace."""

log = logging.getLogger("graftbox.vscode")


def program(sandbox: Sandbox) -> str | None:
    """The path of the VS Code server; None where there is none."""
    chosen = sandbox.environment.get("GRAFTBOX_VSCODE_SERVER") or str(PROGRAM)
    return chosen if os.access(chosen, os.X_OK) else None


def manifest(sandbox: Sandbox) -> Manifest:
    chosen = sandbox.environment.get("GRAFTBOX_VSCODE_SERVER") or ""
    folder = sandbox.settings.working_dir
    return Manifest(
        NAME,
        "VS Code in the browser",
        start=(chosen or str(PROGRAM), *OPTIONS),
        cwd="/",
        on_demand=True,
        ready=READY,
        needs=Needs(components=() if chosen else ("vscode",)),
        serve=Serve(socket="{socket}", open=f"?folder={quote(folder)}"),
    )


class VSCodePlugin(Plugin):
    """The plugin, with a port of its own where one was chosen."""

    def __init__(self, sandbox: Sandbox, prepare: Callable[[Plugin], Coroutine[Any, Any, Launch]]) -> None:
        super().__init__(manifest(sandbox), prepare)
        self.sandbox = sandbox
        self.host: Host | None = None
        self._opening: asyncio.Task[None] | None = None

    def start(self) -> None:
        super().start()
        if self._opening is None and self.sandbox.settings.vscode_port and program(self.sandbox):
            self._opening = asyncio.get_running_loop().create_task(self._open_port())

    async def token(self) -> str | None:
        """What opens it in a browser, once its port listens; it is started if it is not. None: there is no
        VS Code here.
        """
        if program(self.sandbox) is None:
            return None
        if self.state in ("off", "failed", "stopped"):
            self.start()
        if self._opening is not None:
            await self._opening
        return self.sandbox.plugins.token(NAME)

    async def _open_port(self) -> None:
        from graftbox.server.host import Host

        settings = self.sandbox.settings
        host = Host(
            _OwnPort(self.sandbox, self),
            max_connections=settings.limits.max_connections,
            tunnels=lambda path: True,
        )
        try:
            await host.listen(settings.host, settings.vscode_port, None)
        except OSError as error:
            log.error(
                "VS Code's own port %s can't be listened on: %s. /v1/proxy/vscode/ leads to it all the same.",
                settings.vscode_port,
                error.strerror,
            )
        else:
            self.host = host

    async def _run(self, began: float) -> str | None:
        settings, sandbox = self.sandbox.settings, self.sandbox
        await sandbox.sessions.prepare()
        folder = await sandbox.identity.call(_data_folder, sandbox)
        if NAME in settings.plugins:
            base = sandbox.environment.get("WORKSPACE_BASE") or settings.working_dir
            await sandbox.identity.call(_write_workspace_settings, Path(base))
        assert sandbox.sessions.folder is not None
        place = runtime.place_for(sandbox.sessions.folder, sandbox.identity)
        entries = environment_for(sandbox, sandbox.identity, {})
        await sandbox.identity.call(_write_environment, place / ENVIRONMENT, entries)
        await sandbox.identity.call(_write_machine_settings, folder, terminals(sandbox, place))
        words = (
            *manifest(sandbox).start,
            "--server-data-dir",
            str(folder),
            "--default-folder",
            "{workspace}",
        )
        self.manifest = replace(self.manifest, start=words)
        return await super()._run(began)

    async def close(self) -> None:
        if self._opening is not None:
            await self._opening
        if self.host is not None:
            await self.host.close()
        await super().close()

    def describe(self) -> dict[str, Any]:
        port = self.host.port if self.host is not None else None
        return {**super().describe(), "port": port}


class _OwnPort:
    """The application behind VS Code's own port: at the root, and at the path that a front proxy keeps."""

    def __init__(self, sandbox: Sandbox, plugin: Plugin) -> None:
        self.sandbox = sandbox
        self.plugin = plugin
        self.gates: dict[str, Gate] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        base = self.sandbox.settings.vscode_base
        below = base and (scope["path"] == base or scope["path"].startswith(base + "/"))
        gate = self._gate(base if below else "")
        await gate.serve(scope, receive, send, trusted=False)

    def _gate(self, prefix: str) -> Gate:
        from graftbox.server.gate import Gate
        from graftbox.server.upstream import PluginUpstream

        if prefix not in self.gates:
            token = self.sandbox.plugins.token(NAME)
            self.gates[prefix] = Gate(PluginUpstream(self.plugin), token, prefix, None, ports=True)
        return self.gates[prefix]


def terminals(sandbox: Sandbox, place: Path) -> dict[str, Any]:
    """VS Code's settings for its terminals: the user's own shell, with and without VS Code's variables, and
    the agent's session. ``place`` is the user's part of the runtime folder.
    """
    environment, identity = sandbox.environment, sandbox.identity
    profiles: dict[str, Any] = {}
    found: dict[str, Any] = {"terminal.integrated.profiles.linux": profiles}
    try:
        own = identity.shell or environment.get("SHELL") or ""
        shell = own if os.access(own, os.X_OK) else find_shells(environment, None)[0]
    except GraftboxError as error:
        log.warning("VS Code's terminals have no shell: %s", error)
    else:
        name = Path(shell).name.removeprefix("oh-")
        profiles[name] = _profile("plain_terminal", str(place / ENVIRONMENT), shell)
        profiles[f"{name} (VS Code's variables)"] = {"path": shell}
        found["terminal.integrated.defaultProfile.linux"] = name
    attach = bundled("oh-attach")
    words = ("--socket", str(place / "tmux"))
    profiles["agent"] = {"path": attach, "args": list(words)} if attach else _profile("attach", *words)
    profiles["agent"] |= {"icon": "eye", "overrideName": True}
    return found


def _profile(module: str, *words: str) -> dict[str, Any]:
    program = str(Path(__file__).with_name(f"{module}.py"))
    return {"path": sys.executable, "args": ["-ISB", "-Xutf8", program, *words]}


def _data_folder(sandbox: Sandbox) -> Path:
    """Where VS Code keeps extensions and settings: the user's home, else a folder that ends with the server.

    Blocking, with the user's rights.
    """
    identity = sandbox.identity
    home = identity.home or sandbox.environment.get("HOME") or "/"
    given = sandbox.environment.get("GRAFTBOX_VSCODE_DATA")
    assert sandbox.sessions.folder is not None
    fallback = sandbox.sessions.folder / f"u{identity.uid}" / "vscode"
    wanted = [Path(given)] if given else [Path(home, ".openvscode-server")] if home != "/" else []
    for folder in (*wanted, fallback):
        try:
            (folder / "data/Machine").mkdir(parents=True, exist_ok=True)
            if os.access(folder / "data/Machine", os.W_OK, effective_ids=not identity.switched):
                return folder
        except OSError:
            continue
    return fallback


def _write_environment(path: Path, entries: tuple[bytes, ...]) -> None:
    path.touch(mode=0o600)
    path.write_bytes(b"".join(entry + b"\0" for entry in entries))


def _write_machine_settings(folder: Path, found: dict[str, Any]) -> None:
    """Put ``found`` among the settings of this machine; those that a person has changed stay."""
    path = folder / "data/Machine/settings.json"
    try:
        present = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        profiles = "terminal.integrated.profiles.linux"
        merged = {**found, **present, profiles: {**present.get(profiles, {}), **found[profiles]}}
        path.write_text(json.dumps(merged, indent=4) + "\n", encoding="utf-8")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # VS Code takes comments, which JSON has not: a file with some is a person's, and stays.
        log.warning("VS Code's settings %s are left as they are: %s.", path, error)


def _write_workspace_settings(folder: Path) -> None:
    """As OpenHands' server does, but never over a file that is there."""
    path = folder / ".vscode/settings.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(WORKSPACE_SETTINGS, indent=4) + "\n")
        path.chmod(0o666)
    except FileExistsError:
        pass
    except OSError as error:
        log.warning("VS Code's settings %s could not be written: %s.", path, error.strerror)

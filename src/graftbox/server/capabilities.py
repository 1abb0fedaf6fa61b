"""What works in this sandbox and what does not, with the reason: ``GET /v1/capabilities``.

Nothing is started, connected to or written for it, so that it also answers where nothing is left to do so
with. What the kernel does not tell is null.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graftbox import __version__
from graftbox.errors import GraftboxError
from graftbox.server import cgroup, vscode
from graftbox.server.environment import BUNDLE, bundled, find_program, find_shells, find_tmux
from graftbox.server.identity import Identity
from graftbox.server.sandbox import Sandbox

LOW_DISK = 16 * 1024 * 1024
LOW_MEMORY = 32 * 1024 * 1024
LOW_PROCESSES = 8
_SETUID = 7


def capabilities(sandbox: Sandbox, folders: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Blocking, for some milliseconds; ``folders`` is what `look_at_folders` has found."""
    features = _features(sandbox)
    resources = _resources()
    return {
        "version": __version__,
        "bundled": Path(__file__).is_relative_to(BUNDLE),
        "python": ".".join(map(str, sys.version_info[:3])),
        "architecture": os.uname().machine,
        "kernel": os.uname().release,
        "components": [
            "core",
            *(
                name
                for name in ("jupyter", "mcp", "browser", "vscode")
                if features[_FEATURE_OF[name]]["works"]
            ),
        ],
        "user": _user(sandbox.identity),
        "features": features,
        "plugins": _plugins(sandbox),
        "folders": folders,
        **resources,
        "network": _network(),
        "limits": vars(sandbox.settings.limits),
        "problems": list(_problems(features, folders, resources)),
    }


_FEATURE_OF = {"jupyter": "python", "mcp": "mcp", "browser": "browser", "vscode": "vscode"}


def _works(**more: Any) -> dict[str, Any]:
    return {"works": True, "reason": None, **more}


def _fails(reason: str, **more: Any) -> dict[str, Any]:
    return {"works": False, "reason": reason, **more}


def _features(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    shell = _found(lambda: find_shells(sandbox.environment, sandbox.settings.shell)[0])
    tmux = _found(lambda: find_tmux(sandbox.environment))
    return {
        "shell": shell,
        "tmux": tmux,
        "terminal": _terminal(shell, tmux),
        "commands": _works(),
        "files": _works(),
        "python": _python(),
        "mcp": _module("mcp", "This bundle has no MCP component; add the component mcp to it."),
        "browser": sandbox.browser.describe(),
        "vscode": _vscode(sandbox),
        "git": _program(sandbox, "oh-git", "git"),
        "ripgrep": _program(sandbox, "oh-rg", "rg"),
        "user_switching": _switching(),
    }


def _found(find: Callable[[], str]) -> dict[str, Any]:
    try:
        path = find()
    except GraftboxError as error:
        return _fails(str(error), path=None)
    return _works(path=path, bundled=path.startswith(f"{BUNDLE}/"))


def _terminal(shell: dict[str, Any], tmux: dict[str, Any]) -> dict[str, Any]:
    for part in (shell, tmux):
        if not part["works"]:
            return _fails(part["reason"])
    if not os.access("/dev/ptmx", os.R_OK | os.W_OK):
        return _fails("/dev/ptmx can't be opened: mount a devpts file system, as container engines do.")
    return _works()


def _python() -> dict[str, Any]:
    for name in ("jupyter_client", "ipykernel"):
        found = _module(name, "This bundle has no Jupyter kernel; add the component jupyter to it.")
        if not found["works"]:
            return found
    return _works()


def _module(name: str, reason: str) -> dict[str, Any]:
    try:
        return _works() if find_spec(name) else _fails(reason)
    except (OSError, ValueError, ImportError) as error:
        return _fails(f"{reason} ({error})")


def _program(sandbox: Sandbox, ours: str, name: str) -> dict[str, Any]:
    path = bundled(ours) or find_program(name, sandbox.environment.get("PATH"))
    if path is None:
        return _fails(f"{name} is neither in the bundle nor on PATH.", path=None)
    return _works(path=path, bundled=path.startswith(f"{BUNDLE}/"))


def _vscode(sandbox: Sandbox) -> dict[str, Any]:
    path = vscode.program(sandbox)
    if path is None:
        return _fails("This bundle has no VS Code; add the component vscode to it.", path=None)
    plugin = sandbox.plugins.plugins[vscode.NAME]
    if plugin.state == "failed":
        return _fails(f"It has failed: {plugin.reason}", path=path)
    return _works(path=path, bundled=path.startswith(f"{BUNDLE}/"))


def _plugins(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Those that were chosen, or asked for since, and how they are."""
    plugins = sandbox.plugins
    return {
        name: {"state": plugin.state, "reason": plugin.reason}
        for name, plugin in list(plugins.plugins.items())
        if name in plugins.chosen or plugin.state != "off"
    }


def _switching() -> dict[str, Any]:
    if os.geteuid() != 0:
        return _fails("The server was not started as root.")
    for line in cgroup.text("/proc/self/status").splitlines():
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> _SETUID & 1:
            return _fails("The container was started without the capability SETUID.")
    return _works()


def _user(identity: Identity) -> dict[str, Any]:
    home = identity.home if identity.switched else os.environ.get("HOME")
    return {"uid": identity.uid, "gid": identity.gid, "name": identity.name, "home": home}


def look_at_folders(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Of the folders that matter, whether the user on whose thread this runs can write to them; blocking."""
    paths = {
        "working_dir": sandbox.settings.working_dir,
        "home": _user(sandbox.identity)["home"],
        "tmp": "/tmp",
        "root": "/",
    }
    return {name: _folder(path) for name, path in paths.items() if path}


def _folder(path: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": path, "exists": False, "writable": _writable(path)}
    try:
        facts["exists"] = Path(path).is_dir()
        found = os.statvfs(path)
    except OSError:
        return {**facts, "free_bytes": None, "free_files": None}
    # Some file systems have no fixed number of files, and say 0 of 0.
    files = found.f_favail if found.f_files else None
    return {**facts, "free_bytes": found.f_bavail * found.f_frsize, "free_files": files}


def _writable(path: str) -> bool:
    try:
        return os.access(path, os.W_OK | os.X_OK, effective_ids=True)
    except OSError:
        return False


def _resources() -> dict[str, Any]:
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a number, not paths
    except OSError:
        used = files
    return {
        "memory": cgroup.memory(),
        "processes": cgroup.processes(),
        "cpus": cgroup.cpus(),
        "open_files": {"limit": files, "used": used},
    }


def _network() -> dict[str, Any]:
    """Interfaces beside loopback, and whether a way leads out; nothing is sent."""
    try:
        interfaces = sorted(name for name in os.listdir("/sys/class/net") if name != "lo")  # noqa: PTH208 - names
    except OSError:
        interfaces = []
    routes = [line.split() for line in cgroup.text("/proc/net/route").splitlines()[1:]]
    wide = any(len(route) > 1 and route[1] == "00000000" for route in routes)
    six = (line.split() for line in cgroup.text("/proc/net/ipv6_route").splitlines())
    wide |= any(route[1] == "00" and route[-1] != "lo" for route in six if len(route) == 10)
    return {"interfaces": interfaces, "default_route": wide}


def _problems(
    features: dict[str, dict[str, Any]], folders: dict[str, dict[str, Any]], resources: dict[str, Any]
) -> list[str]:
    """What keeps the sandbox from working as it should, in sentences."""
    found = [
        f"The {name} does not work: {features[name]['reason']}"
        for name in ("terminal",)
        if not features[name]["works"]
    ]
    if not folders["working_dir"]["writable"]:
        found.append(f"The working folder {folders['working_dir']['path']} is not writable.")
    for folder in folders.values():
        if folder["writable"] and folder["free_bytes"] is not None and folder["free_bytes"] < LOW_DISK:
            found.append(f"The disk of {folder['path']} is full: {folder['free_bytes']} bytes are left.")
        if folder["writable"] and folder["free_files"] is not None and folder["free_files"] < LOW_PROCESSES:
            found.append(f"The disk of {folder['path']} can hold no more files.")
    memory, processes, files = resources["memory"], resources["processes"], resources["open_files"]
    if memory["available_bytes"] is not None and memory["available_bytes"] < LOW_MEMORY:
        found.append(f"Memory is used up: {memory['available_bytes']} bytes are left.")
    if processes["limit"] is not None and processes["limit"] - (processes["used"] or 0) < LOW_PROCESSES:
        found.append(f"{processes['used']} processes are running, of {processes['limit']} that may.")
    if files["limit"] - files["used"] < LOW_PROCESSES:
        found.append(f"{files['used']} files are open, of {files['limit']} that may be.")
    return found

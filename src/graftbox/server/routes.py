"""Which function answers which request; each is imported with its first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

from graftbox.server.http import Application
from graftbox.server.request import Request, Response

if TYPE_CHECKING:
    from graftbox.server.channel import Channel
    from graftbox.server.sandbox import Sandbox

Endpoint = Callable[[Request], Awaitable[Response]]
SocketEndpoint = Callable[["Channel"], Awaitable[None]]
Mount = Callable[["Sandbox"], Awaitable[Application]]

_API = "graftbox.server.api"
ROUTES: Mapping[str, Mapping[str, str]] = {
    "/alive": {"GET": "model:alive"},
    "/server_info": {"GET": "model:server_info"},
    "/execute_action": {"POST": "model:execute_action"},
    "/update_mcp_server": {"POST": "mcp:update_servers"},
    "/vscode/connection_token": {"GET": "vscode:connection_token"},
    "/list_files": {"POST": "transfer:list_files"},
    "/upload_file": {"POST": "transfer:upload_file"},
    "/download_files": {"GET": "transfer:download_files"},
    "/v1/openapi.json": {"GET": "about:openapi"},
    "/v1/capabilities": {"GET": "about:show_capabilities"},
    "/v1/mcp/servers": {"GET": "mcp:list_servers"},
    "/v1/plugins": {"GET": "plugins:list_all"},
    "/v1/plugins/{name}": {"GET": "plugins:show"},
    "/v1/plugins/{name}/start": {"POST": "plugins:start"},
    "/v1/plugins/{name}/stop": {"POST": "plugins:stop"},
    "/v1/plugins/{name}/restart": {"POST": "plugins:restart"},
    "/v1/plugins/{name}/log": {"GET": "plugins:read_log"},
    "/v1/ports": {"GET": "ports:list_all"},
    "/v1/ports/{port}": {"GET": "ports:show"},
    "/v1/sessions": {"GET": "sessions:list_all", "POST": "sessions:open_session"},
    "/v1/sessions/{name}": {"GET": "sessions:show", "DELETE": "sessions:close"},
    "/v1/sessions/{name}/run": {"POST": "sessions:run"},
    "/v1/sessions/{name}/input": {"POST": "sessions:give_input"},
    "/v1/sessions/{name}/signal": {"POST": "sessions:send_signal"},
    "/v1/sessions/{name}/resize": {"POST": "sessions:resize"},
    "/v1/sessions/{name}/reset": {"POST": "sessions:reset"},
    "/v1/sessions/{name}/output": {"GET": "sessions:read"},
    "/v1/sessions/{name}/events": {"GET": "sessions:watch"},
    "/v1/sessions/{name}/commands/{id}": {"GET": "sessions:show_command"},
    "/v1/sessions/{name}/commands/{id}/events": {"GET": "sessions:watch_command"},
    "/v1/sessions/{name}/pty": {"WEBSOCKET": "terminal:pty"},
    "/v1/run": {"POST": "commands:run"},
    "/v1/commands": {"GET": "commands:list_all", "POST": "commands:start"},
    "/v1/commands/{id}": {"GET": "commands:show", "DELETE": "commands:delete"},
    "/v1/commands/{id}/signal": {"POST": "commands:send_signal"},
    "/v1/commands/{id}/events": {"GET": "commands:watch"},
    "/v1/commands/{id}/{stream}": {"GET": "commands:read"},
    "/v1/kernels": {"GET": "kernels:list_all", "POST": "kernels:create"},
    "/v1/kernels/{name}": {"GET": "kernels:show", "DELETE": "kernels:delete"},
    "/v1/kernels/{name}/execute": {"POST": "kernels:execute"},
    "/v1/kernels/{name}/stream": {"POST": "kernels:stream"},
    "/v1/kernels/{name}/interrupt": {"POST": "kernels:interrupt"},
    "/v1/kernels/{name}/restart": {"POST": "kernels:restart"},
    "/v1/browser": {"GET": "browser:show", "DELETE": "browser:stop"},
    "/v1/browser/restart": {"POST": "browser:restart"},
    "/v1/browser/cdp": {"WEBSOCKET": "browser:cdp"},
    "/v1/browser/json/version": {"GET": "browser:version"},
    "/v1/browser/json/version/": {"GET": "browser:version_too"},
    "/v1/browser/pages": {"POST": "browser:create"},
    "/v1/browser/pages/{page}": {"GET": "browser:show_page", "DELETE": "browser:close"},
    "/v1/browser/pages/{page}/goto": {"POST": "browser:goto"},
    "/v1/browser/pages/{page}/screenshot": {"GET": "browser:screenshot"},
    "/v1/browser/pages/{page}/pdf": {"GET": "browser:pdf"},
    "/v1/browser/pages/{page}/text": {"GET": "browser:text"},
    "/v1/browser/pages/{page}/evaluate": {"POST": "browser:evaluate"},
    "/v1/files": {"DELETE": "files:delete"},
    "/v1/files/content": {"GET": "files:read", "PUT": "files:write"},
    "/v1/files/stat": {"GET": "files:stat"},
    "/v1/files/list": {"GET": "files:list_folder"},
    "/v1/files/mkdir": {"POST": "files:mkdir"},
    "/v1/files/move": {"POST": "files:move"},
    "/v1/files/edit": {"POST": "files:edit"},
    "/v1/files/glob": {"GET": "search:glob"},
    "/v1/files/grep": {"GET": "search:grep", "POST": "search:grep_body"},
    "/v1/files/watch": {"GET": "search:watch"},
    "/v1/files/archive": {"GET": "transfer:read_archive", "PUT": "transfer:write_archive"},
}
"""Path -> method -> function; the method WEBSOCKET stands for an upgrade of a GET, which gets a `Channel`."""
MOUNTS: Mapping[str, str] = {"/mcp": "mcp:mount", "/v1/proxy": "proxy:mount"}
"""Paths that belong, with all below them, to an ASGI application of their own: ``async (sandbox) -> it``."""
GATED = "/v1/proxy/"
"""Paths below it have a gate of their own, which is told whether the key was given."""
OPEN = frozenset(("/alive", "/server_info"))
"""Paths that need no key."""


def match(path: str) -> tuple[str, dict[str, str]] | None:
    """The route of ``path`` and its parameters: ``/a/{name}`` takes one part, ``/a/{name...}`` the rest."""
    if path in ROUTES:
        return path, {}
    parts = path.split("/")
    for route in ROUTES:
        if "{" in route and (found := _parameters(route.split("/"), parts)) is not None:
            return route, found
    return None


def _parameters(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    found = {}
    for index, name in enumerate(pattern):
        if name.endswith("...}"):
            found[name[1:-4]] = "/".join(parts[index:])
            return found
        if index >= len(parts):
            return None
        if name.startswith("{") and parts[index]:
            found[name[1:-1]] = parts[index]
        elif name != parts[index]:
            return None
    return found if len(pattern) == len(parts) else None


def mounted(path: str) -> Mount | None:
    """What makes the application that ``path`` belongs to."""
    for prefix, reference in MOUNTS.items():
        if path == prefix or path.startswith(prefix + "/"):
            return cast("Mount", _load(reference))
    return None


def takes_websockets(path: str) -> bool:
    """Whether an upgrade of ``path`` has an endpoint."""
    found = match(path)
    return found is not None and "WEBSOCKET" in ROUTES[found[0]]


def tunnels(path: str) -> bool:
    """Whether an upgraded connection at ``path`` belongs to a plugin or a port of the sandbox."""
    return path.startswith(GATED)


def socket(reference: str) -> SocketEndpoint:
    """The function behind ``module:name`` that serves a WebSocket."""
    return cast("SocketEndpoint", _load(reference))


def endpoint(reference: str) -> Endpoint:
    """The function behind ``module:name`` below ``graftbox.server.api``."""
    return cast("Endpoint", _load(reference))


def preload() -> None:
    """Import what must answer even when no file can be opened any more."""
    import_module("resource")
    import_module("graftbox.server.plugins.plugins")
    for reference in ("model:server_info", "about:show_capabilities"):
        _load(reference)


_loaded: dict[str, object] = {}


def _load(reference: str) -> object:
    if reference not in _loaded:
        module, _, name = reference.partition(":")
        _loaded[reference] = getattr(import_module(f"{_API}.{module}"), name)
    return _loaded[reference]

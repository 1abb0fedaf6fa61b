"""Which function answers which request; each is imported with its first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import cast

from graftbox.server.request import Request, Response

Endpoint = Callable[[Request], Awaitable[Response]]

_API = "graftbox.server.api"
ROUTES: Mapping[str, Mapping[str, str]] = {
    "/alive": {"GET": "model:alive"},
    "/server_info": {"GET": "model:server_info"},
    "/execute_action": {"POST": "model:execute_action"},
}
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


_loaded: dict[str, Endpoint] = {}


def endpoint(reference: str) -> Endpoint:
    """The function behind ``module:name`` below ``graftbox.server.api``."""
    if reference not in _loaded:
        module, _, name = reference.partition(":")
        _loaded[reference] = cast("Endpoint", getattr(import_module(f"{_API}.{module}"), name))
    return _loaded[reference]

"""What a plugin says of itself: its ``plugin.toml``, or the same as a mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftbox.errors import FormatError
from graftbox.server.schema import TEXT, MismatchError, Schema, check

MANIFEST = "plugin.toml"
NAME = re.compile(r"(?!port$)[a-z0-9][a-z0-9_-]{0,31}")
"""Not "port": below /v1/proxy/port are the ports of the sandbox."""
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_NAMES: Schema = {"type": "array", "items": TEXT}
_SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {**TEXT, "pattern": f"^{NAME.pattern}$"},
        "summary": {**TEXT, "default": ""},
        "start": {**_NAMES, "default": []},
        "cwd": {**TEXT, "default": "{workspace}"},
        "user": {**TEXT, "default": "sandbox"},
        "on_demand": {"type": "boolean", "default": False},
        "time_limit": {"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
        "ready": {**TEXT, "default": ""},
        "kernel": {**TEXT, "default": ""},
        "environment": {"type": "object", "additionalProperties": TEXT, "default": {}},
        "needs": {
            "type": "object",
            "additionalProperties": False,
            "default": {},
            "properties": dict.fromkeys(("plugins", "programs", "components"), _NAMES),
        },
        "serve": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "socket": TEXT,
                "port": {"type": ["integer", "string"]},
                "health": {**TEXT, "pattern": "^(/.*)?$", "default": ""},
                "open": {**TEXT, "default": ""},
            },
        },
    },
}


@dataclass(frozen=True)
class Serve:
    """Where the plugin answers HTTP: a Unix socket's path or a port of 127.0.0.1; both may be placeholders.

    ``health``: a path that answers below 500 when it is ready; ``open``: what follows the plugin's own path
    in the link for a browser.
    """

    socket: str = ""
    port: str = ""
    health: str = ""
    open: str = ""


@dataclass(frozen=True)
class Needs:
    """Plugins that are started first; programs, looked for as the plugin's own; components of the bundle."""

    plugins: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    components: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """``start``: an argv, empty where no program is to run; ``user``: ``sandbox``, ``server`` or a name;
    ``on_demand``: started by the first request to it; ``time_limit``: seconds to get ready, None: the
    server's; ``ready``: what a line of its output contains when it is; ``kernel``: code that every new main
    kernel begins with; ``folder``: where the manifest was found; ``source``: how, in words.
    """

    name: str
    summary: str = ""
    start: tuple[str, ...] = ()
    cwd: str = "{workspace}"
    user: str = "sandbox"
    on_demand: bool = False
    time_limit: float | None = None
    ready: str = ""
    kernel: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Needs = Needs()
    serve: Serve | None = None
    folder: str = "/"
    source: str = "built in"


def read(path: Path, source: str) -> Manifest:
    """The manifest in the file ``path``; raises `FormatError`."""
    import tomllib

    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"The manifest {path} can't be read: {error}.") from error
    return parse(given, str(path.parent), source, str(path))


def parse(given: Any, folder: str, source: str, where: str) -> Manifest:
    """The manifest that ``given``, a mapping like the file's, stands for; raises `FormatError`."""
    try:
        values = check(given, _SCHEMA, "it")
    except MismatchError as error:
        raise FormatError(f"The manifest {where} does not fit: {error}") from error
    serve = values.pop("serve", None)
    if serve is not None and ("socket" in serve) == ("port" in serve):
        raise FormatError(f"The manifest {where} does not fit: serve needs either socket or port.")
    if not values["start"] and (serve is not None or not values["kernel"]):
        raise FormatError(f"The manifest {where} starts nothing: give it start, or kernel.")
    for name in values["environment"]:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise FormatError(f"The manifest {where} does not fit: {name!r} is no name for a variable.")
    return Manifest(
        **{
            **values,
            "start": tuple(values["start"]),
            "needs": Needs(**{name: tuple(names) for name, names in values["needs"].items()}),
            "serve": None if serve is None else Serve(**{**serve, "port": str(serve.get("port", ""))}),
        },
        folder=folder,
        source=source,
    )


def filled(text: str, values: Mapping[str, str]) -> str:
    """``text`` with ``{name}`` replaced; raises `FormatError` for a name that is not among ``values``."""

    def value(match: re.Match[str]) -> str:
        try:
            return values[match[1]]
        except KeyError:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise FormatError(f"The manifest has {match[0]}, but only {known} are known.") from None

    return _PLACEHOLDER.sub(value, text)

"""What the command line and the environment ask of the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graftbox.errors import UsageError
from graftbox.server.environment import Environment
from graftbox.server.limits import Limits, read_limits

DEFAULT_PORT = 60000
DEFAULT_SILENCE = 10.0
PLUGIN_SECONDS = 120.0
USAGE = (
    "action-execution-server [PORT] [--working-dir DIR] [--plugins NAME…] [--plugin-path DIR:…] "
    "[--username NAME] [--user-id N] [--enable-browser|--no-enable-browser] [--browsergym-eval-env NAME] "
    "[--no-auth] [--shell FILE] [--kernel-python FILE] [-- COMMAND…]"
)
_PLUGINS = ("jupyter", "agent_skills", "vscode")
_VALUED = (
    "--working-dir",
    "--plugin-path",
    "--username",
    "--user-id",
    "--shell",
    "--kernel-python",
    "--browsergym-eval-env",
)
_FLAGS = ("--enable-browser", "--no-enable-browser", "--no-auth")
_WITHOUT_EFFECT = {
    "--browsergym-eval-env": "this server has no evaluation environments",
    "RUNTIME_MAX_MEMORY_GB": "set a memory limit with the container engine",
    "RUNTIME_MEMORY_MONITOR": "ask GET /server_info",
    "LOCAL_RUNTIME_MODE": "this server is always the same",
}
"""Options and variables of existing clients that change nothing here, and why."""


@dataclass(frozen=True)
class Settings:
    """``port`` None: no TCP; ``key`` None: all is open; ``silence`` in seconds; ``child``: an argv;
    ``username`` and ``user_id``: whom the actions run as, None: the server's own user; ``group``: a name or
    number, for a working folder that is handed to that user; ``notes``: what to say about options that have
    no effect; ``browser``: whether there may be one. ``plugins``: those that are started, ``plugin_folders``
    where more are looked for, ``plugin_seconds`` that one may take to start; ``secret``: what the plugins'
    tokens are made from, the same for all starts of the server in one container. ``vscode_port``: a port of
    VS Code's own, ``vscode_base``: the path that a front proxy leaves before its addresses.
    """

    port: int | None = DEFAULT_PORT
    host: str = "0.0.0.0"
    socket: str | None = None
    working_dir: str = "/"
    key: str | None = None
    shell: str | None = None
    kernel_python: str | None = None
    silence: float = DEFAULT_SILENCE
    plugins: tuple[str, ...] = ()
    plugin_folders: tuple[str, ...] = ()
    plugin_seconds: float = PLUGIN_SECONDS
    secret: str = ""
    vscode_port: int | None = None
    vscode_base: str = ""
    username: str | None = None
    user_id: int | None = None
    group: str = "0"
    notes: tuple[str, ...] = ()
    child: tuple[str, ...] = ()
    child_dir: str = "/"
    limits: Limits = field(default_factory=Limits)
    browser: bool = True


def read_settings(argv: Sequence[str], environment: Environment, cwd: str, made_up_key: str) -> Settings:
    """Settings from the arguments after the program's name; raises `UsageError`."""
    values, positional, plugins, child = _arguments(list(argv))
    socket = environment.get("GRAFTBOX_SOCKET") or None
    port = _number("the port", positional or environment.get("GRAFTBOX_PORT") or str(DEFAULT_PORT), 65535)
    no_auth = "--no-auth" in values or environment.get("GRAFTBOX_NO_AUTH") == "1"
    wanted = values.get("--working-dir") or environment.get("WORKSPACE_MOUNT_PATH_IN_SANDBOX")
    username, user_id = _user(values, environment)
    path = values.get("--plugin-path") or environment.get("GRAFTBOX_PLUGINS") or ""
    folders = tuple(str(Path(cwd, folder)) for folder in path.split(":") if folder)
    _check_plugins(plugins, folders)
    return Settings(
        port=None if socket and port == 0 else port,
        host=environment.get("GRAFTBOX_HOST") or "0.0.0.0",
        socket=socket,
        working_dir=str(Path(cwd, wanted)) if wanted else cwd,
        key=None if no_auth else environment.get("SESSION_API_KEY") or made_up_key,
        shell=values.get("--shell") or environment.get("GRAFTBOX_SHELL") or None,
        kernel_python=values.get("--kernel-python") or environment.get("GRAFTBOX_KERNEL_PYTHON") or None,
        silence=_seconds(environment.get("NO_CHANGE_TIMEOUT_SECONDS"), DEFAULT_SILENCE),
        plugins=plugins,
        plugin_folders=folders,
        plugin_seconds=_seconds(environment.get("INIT_PLUGIN_TIMEOUT"), PLUGIN_SECONDS),
        secret=made_up_key,
        vscode_port=_vscode_port(environment.get("VSCODE_PORT")),
        vscode_base=_vscode_base(environment),
        username=username,
        user_id=user_id,
        group=environment.get("SANDBOX_GROUP_ID") or "0",
        notes=_notes(values, environment),
        child=child,
        child_dir=cwd,
        limits=read_limits(environment),
        browser="--no-enable-browser" not in values,
    )


def _user(values: dict[str, str], environment: Environment) -> tuple[str | None, int | None]:
    """Name and number of the user that the actions shall run as."""
    name = values.get("--username") or environment.get("RUNTIME_USERNAME") or None
    number = values.get("--user-id") or environment.get("RUNTIME_UID") or None
    if name is not None and (":" in name or "/" in name or not name.isprintable()):
        raise UsageError(f"{name!r} is not a user name; give --username a name such as openhands.")
    uid = None if number is None else _number("--user-id", number, 2**32 - 2)
    if (environment.get("SU_TO_USER") or "true").lower() not in ("1", "true", "yes"):
        return None, None
    if name is not None and name.isascii() and name.isdigit():
        return None, _number("--username", name, 2**32 - 2)
    return name, uid


def _notes(values: dict[str, str], environment: Environment) -> tuple[str, ...]:
    if "--no-enable-browser" in values and "--browsergym-eval-env" in values:
        raise UsageError("--browsergym-eval-env needs a browser; leave out --no-enable-browser.")
    given = [name for name in _WITHOUT_EFFECT if name in values or environment.get(name)]
    return tuple(f"{name} has no effect: {_WITHOUT_EFFECT[name]}." for name in given)


def _arguments(words: list[str]) -> tuple[dict[str, str], str | None, tuple[str, ...], tuple[str, ...]]:
    values: dict[str, str] = {}
    positional: str | None = None
    plugins: list[str] = []
    while words:
        word = words.pop(0)
        name, given, value = word.partition("=")
        if word == "--":
            return values, positional, tuple(plugins), tuple(words)
        if name in _VALUED:
            if not given and not words:
                raise UsageError(f"{name} needs a value. Usage: {USAGE}")
            values[name] = value if given else words.pop(0)
        elif word in _FLAGS:
            values[word] = ""
        elif word == "--plugins":
            while words and not words[0].startswith("-"):
                plugins.append(words.pop(0))
        elif word.startswith("-") or positional is not None:
            raise UsageError(f"Unknown argument {word}. Usage: {USAGE}")
        else:
            positional = word
    return values, positional, tuple(plugins), ()


def _number(what: str, text: str, limit: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > limit:
        raise UsageError(
            f"{what.capitalize()} must be a number from 0 to {limit}, not {text!r}. Usage: {USAGE}"
        )
    return int(text)


def _seconds(text: str | None, default: float) -> float:
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = 0.0
    return seconds if 0 < seconds < float("inf") else default


def _check_plugins(names: Sequence[str], folders: tuple[str, ...]) -> None:
    """Only for names that are not the server's own is anything looked for."""
    if set(names) <= set(_PLUGINS):
        return
    from graftbox.server.plugins.found import places

    known = (*_PLUGINS, *places(folders))
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"Unknown plugin {unknown[0]}; the plugins are {', '.join(known)}. "
            "--plugin-path names folders with more."
        )


def _vscode_port(text: str | None) -> int | None:
    given = text or ""
    return int(given) if given.isascii() and given.isdigit() and 0 < int(given) < 65536 else None


def _vscode_base(environment: Environment) -> str:
    """The path before VS Code's own addresses, as OpenHands' server finds it; without a slash at the end."""
    if given := environment.get("OPENVSCODE_SERVER_BASE_PATH"):
        return "/" + given.strip("/") if given.strip("/") else ""
    runtime = environment.get("RUNTIME_ID")
    path = "/" + (environment.get("RUNTIME_URL") or "").partition("://")[2].partition("/")[2]
    return f"/{runtime}/vscode" if runtime and path.startswith(f"/{runtime}") else ""

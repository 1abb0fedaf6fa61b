"""What the command line and the environment ask of the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import UsageError
from graftbox.server.environment import Environment

DEFAULT_PORT = 60000
DEFAULT_SILENCE = 10.0
USAGE = (
    "action-execution-server [PORT] [--working-dir DIR] [--plugins NAME…] [--username NAME] [--user-id N] "
    "[--enable-browser|--no-enable-browser] [--browsergym-eval-env NAME] [--no-auth] [--shell FILE] "
    "[-- COMMAND…]"
)
_PLUGINS = ("jupyter", "agent_skills", "vscode")
_VALUED = ("--working-dir", "--username", "--user-id", "--shell", "--browsergym-eval-env")
_WITHOUT_EFFECT = ("--username", "--user-id", "--enable-browser", "--browsergym-eval-env")
_FLAGS = ("--enable-browser", "--no-enable-browser", "--no-auth")


@dataclass(frozen=True)
class Settings:
    """``port`` None: no TCP; ``key`` None with ``auth``: make one up; ``silence`` in seconds; ``child``: an
    argv; ``ignored``: options of existing clients that this version does not support.
    """

    port: int | None = DEFAULT_PORT
    host: str = "0.0.0.0"
    socket: str | None = None
    working_dir: str = "/"
    key: str | None = None
    auth: bool = True
    shell: str | None = None
    silence: float = DEFAULT_SILENCE
    ignored: tuple[str, ...] = ()
    child: tuple[str, ...] = ()
    child_dir: str = "/"


def read_settings(argv: Sequence[str], environment: Environment, cwd: str) -> Settings:
    """Settings from the arguments after the program's name; raises `UsageError`."""
    values, positional, plugins, child = _arguments(list(argv))
    socket = environment.get("GRAFTBOX_SOCKET") or None
    port = _number("the port", positional or environment.get("GRAFTBOX_PORT") or str(DEFAULT_PORT), 65535)
    no_auth = "--no-auth" in values or environment.get("GRAFTBOX_NO_AUTH") == "1"
    wanted = values.get("--working-dir") or environment.get("WORKSPACE_MOUNT_PATH_IN_SANDBOX")
    return Settings(
        port=None if socket and port == 0 else port,
        host=environment.get("GRAFTBOX_HOST") or "0.0.0.0",
        socket=socket,
        working_dir=str(Path(cwd, wanted)) if wanted else cwd,
        key=None if no_auth else environment.get("SESSION_API_KEY") or None,
        auth=not no_auth,
        shell=values.get("--shell") or environment.get("GRAFTBOX_SHELL") or None,
        silence=_silence(environment.get("NO_CHANGE_TIMEOUT_SECONDS")),
        ignored=_ignored(values, plugins),
        child=child,
        child_dir=cwd,
    )


def _ignored(values: dict[str, str], plugins: tuple[str, ...]) -> tuple[str, ...]:
    if "--user-id" in values:
        _number("--user-id", values["--user-id"], 2**32 - 2)
    given = [f"{name} {values[name]}".rstrip() for name in _WITHOUT_EFFECT if name in values]
    return (*given, *([f"--plugins {' '.join(plugins)}"] if plugins else []))


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
    if unknown := [name for name in plugins if name not in _PLUGINS]:
        raise UsageError(f"Unknown plugin {unknown[0]}; the plugins are {', '.join(_PLUGINS)}.")
    return values, positional, tuple(plugins), ()


def _number(what: str, text: str, limit: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > limit:
        raise UsageError(
            f"{what.capitalize()} must be a number from 0 to {limit}, not {text!r}. Usage: {USAGE}"
        )
    return int(text)


def _silence(text: str | None) -> float:
    try:
        seconds = float(text) if text else DEFAULT_SILENCE
    except ValueError:
        seconds = 0.0
    return seconds if 0 < seconds < float("inf") else DEFAULT_SILENCE

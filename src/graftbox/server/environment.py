"""The two environments: the container's own, kept exactly for the user, and a clean one for our helpers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import UnsupportedError
from graftbox.server.secrets import KEY, OURS

BUNDLE = Path("/openhands")
# What tmux's own terminal is; unlike "tmux-256color" every terminfo collection has it.
_DEFAULT_TERM = b"screen"


@dataclass(frozen=True)
class Environment:
    """The variables this process was started with: ``entries`` are ``NAME=value``, byte for byte."""

    entries: tuple[bytes, ...]

    def get(self, name: str, default: str | None = None) -> str | None:
        start = os.fsencode(name) + b"="
        for entry in self.entries:
            if entry.startswith(start):
                return os.fsdecode(entry[len(start) :])
        return default

    def for_the_user(self) -> tuple[bytes, ...]:
        """Everything except what concerns this server alone."""
        return tuple(
            entry
            for entry in self.entries
            if not entry.startswith(OURS.encode()) and entry.partition(b"=")[0] != KEY.encode()
        )

    def for_a_terminal(self) -> tuple[bytes, ...]:
        """The user's variables, and a TERM where the container names none."""
        entries = self.for_the_user()
        if any(entry.startswith(b"TERM=") for entry in entries):
            return entries
        return (*entries, b"TERM=" + _DEFAULT_TERM)


def helper_environment() -> dict[str, str]:
    """For tmux and the launcher: nothing inherited, a UTF-8 locale that the bundle brings."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TERM": "screen", "HOME": "/", "SHELL": "/bin/sh"}


def bundled(name: str) -> str | None:
    """The path of the bundle's own program, None when this code does not run from the bundle."""
    path = BUNDLE / "bin" / name
    return str(path) if Path(__file__).is_relative_to(BUNDLE) and os.access(path, os.X_OK) else None


def find_program(name: str, search: str | None, cwd: str = "/") -> str | None:
    """The first executable file called ``name`` on the PATH ``search``."""
    for folder in (search or "").split(":"):
        path = str(Path(cwd, folder, name))
        if os.access(path, os.X_OK) and not Path(path).is_dir():
            return path
    return None


def find_tmux(environment: Environment) -> str:
    path = bundled("oh-tmux") or find_program("tmux", environment.get("PATH") or "/usr/bin:/bin")
    if path is None:
        raise UnsupportedError(
            "tmux was found neither in the bundle nor on PATH; install tmux to run without the bundle."
        )
    return path


def find_shells(environment: Environment, chosen: str | None) -> tuple[str, ...]:
    """The shells to try in turn: the one asked for, else the base image's bash, else the bundle's."""
    if chosen is not None:
        path = chosen if "/" in chosen else find_program(chosen, environment.get("PATH"))
        if path is None or not os.access(path, os.X_OK):
            raise UnsupportedError(
                f"The shell {chosen} is not an executable file; name another with --shell."
            )
        candidates: Iterable[str | None] = (path, bundled("oh-bash"))
    else:
        usual = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash")
        own = next((path for path in usual if os.access(path, os.X_OK)), None)
        candidates = (own or find_program("bash", environment.get("PATH")), bundled("oh-bash"))
    shells = tuple(path for path in candidates if path)
    if not shells:
        raise UnsupportedError(
            "No bash was found in this image or in the bundle; install bash or name a shell with --shell."
        )
    return shells


def user_name(uid: int) -> str:
    """The name of ``uid`` in the container's passwd file, else its number."""
    try:
        for line in Path("/etc/passwd").read_text(encoding="utf-8", errors="replace").splitlines():
            parts = line.split(":")
            if len(parts) > 2 and parts[2] == str(uid):
                return parts[0]
    except OSError:
        pass
    return str(uid)


def as_mapping(entries: Iterable[bytes]) -> Mapping[bytes, bytes]:
    return {name: value for name, _, value in (entry.partition(b"=") for entry in entries)}

"""Which npm registries this machine uses, from npm's own configuration.

npm's order: its environment variables, the user's ``.npmrc``, the global one. Where none of them names a
registry, an installed npm is asked for the one that is built into it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "npm_config_"
TIMEOUT = 20.0


@dataclass(frozen=True)
class Registries:
    """The registry's address, and those of single scopes (``@name``)."""

    url: str = ""
    scopes: Mapping[str, str] = field(default_factory=dict)

    def of(self, package: str) -> str:
        """Where the package is looked up; empty if nobody says."""
        scope, slash, _ = package.partition("/")
        return self.scopes.get(scope, self.url) if slash else self.url


def configured(environ: Mapping[str, str] | None = None) -> Registries:
    """What npm would use here."""
    environ = os.environ if environ is None else environ
    settings = _settings(environ)
    scopes = {
        key.removesuffix(":registry"): value.rstrip("/")
        for key, value in settings.items()
        if key.startswith("@") and key.endswith(":registry")
    }
    return Registries((settings.get("registry") or _built_in(environ)).rstrip("/"), scopes)


def certificates(environ: Mapping[str, str]) -> Path | None:
    """The file of extra certificate authorities that npm or Node is told to trust."""
    named = _settings(environ).get("cafile") or environ.get("NODE_EXTRA_CA_CERTS") or "null"
    return None if named == "null" or not Path(named).is_file() else Path(named)


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    variables = {
        name[len(PREFIX) :].lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.lower().startswith(PREFIX) and value
    }
    home = environ.get("HOME")
    user = variables.get("userconfig") or (f"{home}/.npmrc" if home else "")
    settings: dict[str, str] = {}
    for path in (_global_file(variables, environ.get("PATH")), user):
        if path:
            settings |= _read(Path(path), environ)
    return settings | variables


def _global_file(variables: Mapping[str, str], path: str | None) -> str:
    """``etc/npmrc`` below npm's prefix, which is the folder above that of ``node``; empty without npm."""
    if named := variables.get("globalconfig"):
        return named
    node = shutil.which("node", path=path)
    prefix = variables.get("prefix") or (str(Path(node).parent.parent) if node else "")
    return f"{prefix}/etc/npmrc" if prefix else ""


def _read(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings of an ``.npmrc``: ``key = value``, comments by ``;`` or ``#``, values with ``${NAME}``."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    settings = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith((";", "#", "[")):
            value = value.strip().strip("\"'")
            settings[key.strip()] = re.sub(r"\$\{(\w+)\}", lambda m: environ.get(m[1], m[0]), value)
    return settings


def _built_in(environ: Mapping[str, str]) -> str:
    """The registry that this machine's npm uses when nobody says otherwise; empty without npm."""
    npm = shutil.which("npm", path=environ.get("PATH"))
    if npm is None:
        return ""
    command = [npm, "config", "get", "registry", "--no-update-notifier"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=dict(environ)
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    answer = done.stdout.strip()
    return answer if done.returncode == 0 and re.fullmatch(r"\w+://\S+", answer) else ""

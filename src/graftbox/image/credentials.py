"""Credentials that people have stored by ``docker login``, ``podman login`` or a credential helper.

Files, the first entry that fits counts: ``$REGISTRY_AUTH_FILE``, ``$DOCKER_CONFIG/config.json`` (else
``~/.docker``), ``$XDG_RUNTIME_DIR/containers/auth.json``, ``$XDG_CONFIG_HOME/containers/auth.json``.
Sources: docker's config.json, containers-auth.json(5), the docker-credential-helpers protocol.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftbox.errors import ConfigurationError
from graftbox.image.reference import DOCKER_HUB

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
HELPER_SECONDS = 60.0
IDENTITY_USER = "<token>"
"""The user name under which helpers hand out an identity token."""


@dataclass(frozen=True)
class Credential:
    """What proves who the user is; the secrets are left out of its ``repr``."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """An OAuth 2 refresh token, as cloud registries give out."""
    registry_token: str = field(default="", repr=False)
    """A bearer token that is sent as it is."""

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header, or nothing where there is no password."""
        if not self.user or not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be printed."""
        all_of_them = (self.password, self.identity_token, self.registry_token, self.basic[6:])
        return tuple(secret for secret in all_of_them if secret)


def find(host: str, repository: str = "") -> Credential | None:
    """The stored credential for a registry, or for a repository of it; None is anonymous.

    Raises `ConfigurationError` if a credential helper that was set up for this registry does not work.
    """
    for path in _files():
        config = _read(path)
        keys = list(_keys(host, repository))
        helpers = _table(config, "credHelpers")
        for key in keys:
            helper = helpers.get(key)
            if isinstance(helper, str) and helper:
                return _asked(helper, host, required=True)
        auths = _table(config, "auths")
        store = config.get("credsStore")
        if isinstance(store, str) and store:
            stored = _asked(store, host, required=any(key in auths for key in keys))
            if stored:
                return stored
        for key in keys:
            if found := _entry(auths.get(key)):
                return found
    return None


def _files() -> Iterator[Path]:
    environment = os.environ
    if explicit := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(explicit)
    home = Path.home()
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"


def _read(path: Path) -> Mapping[str, Any]:
    """The file's object; a file that is missing, unreadable or damaged says nothing, as docker has it."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _keys(host: str, repository: str) -> Iterator[str]:
    """Under which names a registry may be filed, the most specific first (containers-auth.json(5))."""
    if host == DOCKER_HUB:
        yield DOCKER_HUB_KEY
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        yield "/".join([host, *parts[:count]])
    yield from (f"https://{host}", f"https://{host}/", f"https://{host}/v1/", f"https://{host}/v2/")


def _entry(entry: object) -> Credential | None:
    """One value of ``auths``; an empty one means that the secret is elsewhere."""
    if not isinstance(entry, dict):
        return None
    text = {key: value for key, value in entry.items() if isinstance(value, str)}
    user, password = text.get("username", ""), text.get("password", "")
    try:
        decoded = base64.b64decode(text.get("auth", ""), validate=True).decode().rstrip("\0")
        if ":" in decoded:
            user, _, password = decoded.partition(":")
    except (binascii.Error, UnicodeDecodeError):
        pass
    found = _credential(user, password)
    found = Credential(
        found.user,
        found.password,
        text.get("identitytoken", "") or found.identity_token,
        text.get("registrytoken", ""),
    )
    return found if found.secrets else None


def _credential(user: str, secret: str) -> Credential:
    return Credential(identity_token=secret) if user == IDENTITY_USER else Credential(user, secret)


def _asked(helper: str, host: str, required: bool) -> Credential | None:
    """What ``docker-credential-HELPER get`` answers: a JSON object; "not found" is anonymous."""
    name = f"docker-credential-{helper}"
    program = shutil.which(name)
    if program is None:
        if not required:
            return None
        raise ConfigurationError(
            f"The log-in for {host} is kept by {name}, which is not on PATH. Install it, or remove it from "
            "docker's config.json and log in again."
        )
    server = DOCKER_HUB_KEY if host == DOCKER_HUB else host
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=HELPER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        # The error holds the command, never what the helper has printed.
        raise ConfigurationError(f"{name} gave no answer for {host} ({type(error).__name__}).") from None
    if done.returncode:
        if b"not found" in done.stdout.lower() + done.stderr.lower() or not required:
            return None
        raise ConfigurationError(
            f"{name} failed for {host} with exit code {done.returncode}. Run it by hand to see why: "
            f"echo {server} | {name} get"
        )
    try:
        answer = json.loads(done.stdout)
        found = _credential(str(answer.get("Username", "")), str(answer.get("Secret", "")))
    except (ValueError, AttributeError):
        raise ConfigurationError(f"{name} answered for {host} with something that is not JSON.") from None
    return found if found.secrets else None

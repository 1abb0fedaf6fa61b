"""Credentials for registries: anonymous and basic tokens, from Docker's own configuration file.

The seam for more (credential helpers, cloud log-ins) is `Authenticator`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx2

from graftbox.errors import TransportError
from graftbox.image.reference import DOCKER_HUB

_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True)
class Challenge:
    """A ``WWW-Authenticate`` header: ``basic``, or ``bearer`` with where to fetch a token."""

    scheme: str
    realm: str
    service: str
    scopes: tuple[str, ...]

    @classmethod
    def read(cls, header: str) -> Challenge | None:
        """None if the header asks for nothing that is known here."""
        scheme, _, rest = header.strip().partition(" ")
        if scheme.lower() not in {"basic", "bearer"}:
            return None
        values = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
        scopes = tuple(values.get("scope", "").split())
        return cls(scheme.lower(), values.get("realm", ""), values.get("service", ""), scopes)


class Authenticator(Protocol):
    """Makes ``Authorization`` headers."""

    def header(
        self, client: httpx2.Client, host: str, challenge: Challenge, scopes: frozenset[str]
    ) -> str | None:
        """The header for this host and these scopes, or None if there are no credentials for it."""
        ...


class DockerConfigAuthenticator:
    """Reads ``auths`` of ``$DOCKER_CONFIG/config.json`` (else ``~/.docker``); without an entry, anonymous."""

    def header(
        self, client: httpx2.Client, host: str, challenge: Challenge, scopes: frozenset[str]
    ) -> str | None:
        basic = _stored(host)
        if challenge.scheme == "basic":
            return f"Basic {basic}" if basic else None
        query: dict[str, str | list[str]] = {"scope": sorted(_merged(scopes))}
        if challenge.service:
            query["service"] = challenge.service
        headers = {"Authorization": f"Basic {basic}"} if basic else {}
        if not challenge.realm.startswith(("https://", "http://")):
            raise TransportError(f"{host} names no address for log-in tokens; its configuration is broken.")
        response = client.get(challenge.realm, params=query, headers=headers)
        if response.status_code in {401, 403}:
            return None
        try:
            answer = response.raise_for_status().json()
            token = answer.get("token") or answer["access_token"]
        except (httpx2.HTTPStatusError, ValueError, KeyError, AttributeError) as error:
            raise TransportError(f"The token service of {host} gave no token: {error}. Try again.") from error
        return f"Bearer {token}"


def _merged(scopes: frozenset[str]) -> list[str]:
    """One scope per repository, with the union of its actions; placeholders are left out."""
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        name, _, wanted = scope.rpartition(":")
        if name != "repository:user/image":
            actions.setdefault(name, set()).update(wanted.split(","))
    return [f"{name}:{','.join(sorted(wanted))}" for name, wanted in actions.items()]


def _stored(host: str) -> str | None:
    """The base64 of ``user:password`` that ``docker login`` stored for this host."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        auths = json.loads((folder / "config.json").read_bytes()).get("auths") or {}
    except (OSError, ValueError, AttributeError):
        return None
    keys = ["https://index.docker.io/v1/", DOCKER_HUB] if host == DOCKER_HUB else [host, f"https://{host}"]
    for key in keys:
        entry = auths.get(key)
        auth = entry.get("auth") if isinstance(entry, dict) else None
        if isinstance(auth, str) and auth:
            try:
                base64.b64decode(auth, validate=True)
            except binascii.Error:
                continue
            return auth
    return None

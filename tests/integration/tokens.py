"""Real registries with token authentication (and the token service that they trust) or with TLS."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.answering import Answer, Asked, listening
from tests.integration.conftest import Registry, free_port, program, started

from graftbox.image.retry import Patience

PASSWORD = "s3cret-Passw0rd"
REFRESH = "refresh-t0ken-of-jo"


def certificate(folder: Path, name: str, *names: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key; ``names`` are hosts (``DNS:x``, ``IP:1.2.3.4``)."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name}"]
    if names:
        command += ["-addext", f"subjectAltName={','.join(names)}"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class TokenService:
    """Signs tokens (RS256, certificate in ``x5c``); ``jo`` may do everything, anonymous only pull."""

    cert: Path
    key: Path
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Of each request: ``method``, ``scopes``, ``user`` and ``grant``."""
    expired: int = 0
    """So many of the next tokens are an hour too old."""
    no_get: bool = False
    withheld: str = ""
    """A repository that no token is given for."""
    address: str = ""

    def granted(self, user: str, scopes: list[str]) -> list[dict[str, Any]]:
        found = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            allowed = set(actions.split(",")) & ({"pull", "push", "delete"} if user else {"pull"})
            if name != self.withheld and allowed:
                found.append({"type": kind, "name": name, "actions": sorted(allowed)})
        return found

    def token(self, user: str, scopes: list[str]) -> str:
        now = int(time.time())
        if self.expired:
            self.expired -= 1
            now -= 3600
        der = "".join(self.cert.read_text().split("-----")[2].split())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        claims: dict[str, Any] = {
            "iss": "tokens",
            "sub": user,
            "aud": "registry",
            "jti": str(len(self.asked)),
        }
        claims |= {"iat": now - 10, "nbf": now - 10, "exp": now + 300, "access": self.granted(user, scopes)}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        command = [program("openssl"), "dgst", "-sha256", "-sign", str(self.key)]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
        return f"{text}.{_encoded(done.stdout)}"

    def answer(self, request: Asked) -> Answer:
        if request.command == "POST":
            form = {k: v[0] for k, v in parse_qs(request.body.decode()).items()}
            scopes, user, grant = form.get("scope", "").split(), "", form["grant_type"]
            if form.get("refresh_token") == REFRESH or form.get("password") == PASSWORD:
                user = "jo"
            self.asked.append({"method": "POST", "scopes": scopes, "user": user, "grant": grant})
            if not user:
                return 401, {}, b"{}"
            token = {"access_token": self.token(user, scopes), "expires_in": 300}
            return 200, {}, json.dumps(token).encode()
        if self.no_get:
            return 405, {}, b""
        query = parse_qs(urlsplit(request.path).query)
        user, basic = "", request.headers.get("Authorization", "")
        if basic:
            name, _, password = base64.b64decode(basic.removeprefix("Basic ")).decode().partition(":")
            if password != PASSWORD:
                return 401, {}, b"{}"
            user = name
        scopes = query.get("scope", [])
        self.asked.append({"method": "GET", "scopes": scopes, "user": user, "grant": ""})
        return 200, {}, json.dumps({"token": self.token(user, scopes), "expires_in": 300}).encode()


@contextlib.contextmanager
def guarded(
    folder: Path, start: Callable[..., contextlib.AbstractContextManager[Registry]]
) -> Iterator[tuple[Registry, TokenService]]:
    """A registry that wants a token for everything, and its token service."""
    cert, key = certificate(folder, "tokens")
    service = TokenService(cert, key)
    with listening(service.answer) as address:
        service.address = address
        settings = f"realm: http://{address}/token, service: registry, issuer: tokens, rootcertbundle: {cert}"
        with start(folder / "guarded", extra=f"auth: {{token: {{{settings}}}}}\n") as registry:
            yield registry, service


@contextlib.contextmanager
def encrypted(folder: Path) -> Iterator[tuple[str, Path]]:
    """A registry with a certificate of its own for ``registry.test`` and 127.0.0.1: port and certificate."""
    cert, key = certificate(folder, "registry", "DNS:registry.test", "IP:127.0.0.1")
    port = free_port()
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', tls: {{certificate: {cert}, key: {key}}}}}\n"
    )

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    command = [program("docker-registry"), "serve", str(folder / "config.yml")]
    with started(command, folder / "log", ready, 60):
        yield str(port), cert


def names_are_here(patch: pytest.MonkeyPatch) -> None:
    """Lets every name below ``.test`` stand for this machine."""
    find = socket.getaddrinfo
    patch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: find("127.0.0.1" if str(host).endswith(".test") else host, *a, **k),
    )


def alone(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes a user without any stored credential or proxy, and with little patience."""
    patch.setattr("graftbox.image.host.PATIENCE", Patience(first=0.01))
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"}:
            patch.delenv(name)
    patch.setenv("DOCKER_CONFIG", str(folder / "docker"))
    patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))

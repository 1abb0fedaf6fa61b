"""Real registries with token authentication (and the token service that they trust) or with TLS."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.integration.conftest import Registry, free_port, program, started

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

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if request.command == "POST":
            length = int(request.headers["Content-Length"])
            form = {k: v[0] for k, v in parse_qs(request.rfile.read(length).decode()).items()}
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
def listening(
    answer: Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]],
) -> Iterator[str]:
    """A server on the loopback interface whose every answer is ``answer``'s; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = answer(self)
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


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

"""Authorities of the image's own, which the browser trusts too."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from graftbox.server.browser import pages, trust
from graftbox.server.browser.errors import PageError
from graftbox.server.environment import Environment
from graftbox.server.sandbox import Sandbox
from graftbox.server.settings import Settings

Key = ec.EllipticCurvePrivateKey


def certificate(name: str, issuer: str, key: Key, signer: Key) -> bytes:
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer)]
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(9))
        .add_extension(x509.BasicConstraints(name == issuer, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def stranger() -> bytes:
    """The certificate of an authority that has nothing to do with the others."""
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate("Usual", "Usual", key, key)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The file with the certificate of an authority that nobody knows; ``server.pem`` beside it is by it."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    (tmp_path / "ca.pem").write_bytes(certificate("Proxy", "Proxy", keys[0], keys[0]))
    private = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "server.pem").write_bytes(certificate("localhost", "Proxy", keys[1], keys[0]) + private)
    return tmp_path / "ca.pem"


@pytest.fixture
def address(authority: Path) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>Trusted</title>")

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("server.pem"))

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            try:
                with context.wrap_socket(request, server_side=True) as connection:
                    super().finish_request(connection, client_address)
            except OSError:
                return  # a browser that does not trust it hangs up

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"https://localhost:{server.server_port}/"
        server.shutdown()


def visited(address: str, environment: Environment, folder: Path) -> str:
    """The title of the page at that address."""

    async def visit() -> str:
        sandbox = Sandbox(Settings(port=None, working_dir=str(folder)), environment)
        try:
            router = await sandbox.browser.router()
            page = await pages.create(router)
            async with pages.visit(router, page, 30) as here:
                await pages.goto(here, address, "load")
                return str((await pages.evaluate(here, "document.title"))["value"])
        finally:
            await sandbox.close()

    return asyncio.run(visit())


@pytest.mark.usefixtures("launch")
def test_a_server_of_the_images_own_authority_is_trusted(
    authority: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "usual.pem").write_bytes(stranger())
    monkeypatch.setattr(trust, "USUAL", tmp_path / "usual.pem")
    own = Environment((b"PATH=/usr/bin:/bin", f"SSL_CERT_FILE={authority}".encode()))
    assert visited(address, own, tmp_path) == "Trusted"
    monkeypatch.setattr(trust, "USUAL", authority)
    with pytest.raises(PageError, match="ERR_CERT_AUTHORITY_INVALID"):
        visited(address, own, tmp_path)


def test_only_what_is_unusual_counts(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Environment((f"SSL_CERT_FILE={authority}".encode(),))
    monkeypatch.setattr(trust, "USUAL", tmp_path / "none.pem")
    assert trust.unusual(own) == []
    known = stranger()
    (tmp_path / "usual.pem").write_bytes(known)
    monkeypatch.setattr(trust, "USUAL", tmp_path / "usual.pem")
    authority.write_bytes(authority.read_bytes() + known.replace(b"\n", b"\r\n"))
    assert len(trust.unusual(own)) == 1

"""Registries that are reached through a proxy: real connections, through a small proxy of our own.

Rules cited: RFC 9110 sections 7.3.2 (whole addresses), 9.3.6 (CONNECT) and 11.7 (log-ins at proxies).
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.integration.conftest import Registry
from tests.integration.tokens import alone, certificate, names_are_here

from graftbox.errors import TransportError
from graftbox.image.graft import Bundle
from graftbox.image.place import Report, graft_image
from graftbox.image.reference import parse
from graftbox.image.transports import Access
from graftbox.store import Store

LOGIN = base64.b64encode(b"jo:p:w").decode()


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without any stored credential or proxy, and little patience; all names are this machine's."""
    alone(monkeypatch, tmp_path)
    names_are_here(monkeypatch)


class _Proxy(socketserver.ThreadingTCPServer):
    """Wants a log-in, and takes every name for this machine; with ``context`` it speaks TLS itself."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.asked: list[str] = []
        """The first line of each request that it was asked to pass on."""
        self._context = context

    def get_request(self) -> Any:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            connection = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, *_: Any) -> None:
        """A client that does not trust us, or hangs up, is none."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Client(socketserver.StreamRequestHandler):
    """One connection: a tunnel, or whole requests one after the other."""

    server: _Proxy

    def handle(self) -> None:
        while (head := self.head()) is not None:
            line, fields = head
            self.server.asked.append(line)
            if fields.pop("proxy-authorization", "") != f"Basic {LOGIN}":
                self.wfile.write(
                    b"HTTP/1.1 407 Log in first\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                return
            method, target, _ = line.split()
            if method == "CONNECT":
                self.tunnel(int(target.rpartition(":")[2]))
                return
            self.pass_on(method, target, fields)

    def head(self) -> tuple[str, dict[str, str]] | None:
        """A request's first line and header fields; None at the end."""
        line = self.rfile.readline().decode().strip()
        fields = {}
        while entry := self.rfile.readline().decode().strip():
            name, _, value = entry.partition(":")
            fields[name.lower()] = value.strip()
        return (line, fields) if line else None

    def tunnel(self, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_copied, args=(server, self.request))
            back.start()
            _copied(self.request, server)
            back.join()

    def pass_on(self, method: str, target: str, fields: dict[str, str]) -> None:
        import http.client

        url = urlsplit(target)
        assert url.scheme == "http", target
        there = http.client.HTTPConnection("127.0.0.1", url.port)
        body = self.rfile.read(int(fields.get("content-length", 0)))
        there.request(method, target.removeprefix(f"http://{url.netloc}"), body, fields)
        answer = there.getresponse()
        data = answer.read()
        kept = [
            (k, v) for k, v in answer.getheaders() if k.lower() not in {"transfer-encoding", "connection"}
        ]
        if not any(k.lower() == "content-length" for k, _ in kept):
            kept.append(("Content-Length", str(len(data))))
        lines = "".join(f"{k}: {v}\r\n" for k, v in kept)
        self.wfile.write(f"HTTP/1.1 {answer.status} x\r\n{lines}\r\n".encode() + data)
        there.close()


def _copied(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The proxy's certificate for ``proxy.test``, and its key."""
    return certificate(tmp_path_factory.mktemp("proxy"), "proxy", "DNS:proxy.test")


@pytest.fixture(params=["http", "https"])
def proxy(request: pytest.FixtureRequest, certificates: tuple[Path, Path]) -> Iterator[tuple[str, _Proxy]]:
    """A running proxy that is spoken to without or with TLS; its address, without a log-in."""
    context = None
    if request.param == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificates)
    with _Proxy(context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{request.param}://proxy.test:{server.port}", server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def access(tls_registry: tuple[str, Path], certificates: tuple[Path, Path], tmp_path: Path) -> Access:
    """Trusts both, the registry and the proxy."""
    both = tmp_path / "both.pem"
    both.write_bytes(tls_registry[1].read_bytes() + certificates[0].read_bytes())
    return Access(authority=both)


@pytest.fixture
def base(layout: Any) -> str:
    layout.image([{"etc/name": b"base"}, {"data": os.urandom(300_000)}])
    return f"oci:{layout.folder}:base"


def run(base: str, target: str, store: Store, bundle: Bundle, access: Access) -> Report:
    return graft_image(parse(base), parse(target), {bundle.arch: bundle}, store, access=access)


def with_login(address: str) -> str:
    return address.replace("://", "://jo:p%3Aw@")


def test_tls_goes_through_a_proxy_in_a_tunnel_that_may_be_tls_itself(
    proxy: tuple[str, _Proxy],
    tls_registry: tuple[str, Path],
    access: Access,
    base: str,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 9110 section 9.3.6; the registry's certificate is checked inside of the tunnel."""
    address, server = proxy
    host = f"registry.test:{tls_registry[0]}"
    monkeypatch.setenv("https_proxy", address)
    with pytest.raises(TransportError, match="407 Log in first"):
        run(base, f"{host}/{repository}:1", store, bundle, access)
    monkeypatch.setenv("https_proxy", with_login(address))
    report = run(base, f"{host}/{repository}:1", store, bundle, access)
    assert report.layers_sent == 4
    # Read back, and verified, through the same proxy.
    assert (
        run(f"{host}/{repository}:1", f"{host}/{repository}2:1", store, bundle, access).digest
        == report.digest
    )
    assert set(server.asked) == {f"CONNECT {host} HTTP/1.1"}


def test_a_registry_without_tls_is_asked_for_by_its_whole_address(
    proxy: tuple[str, _Proxy],
    registry: Registry,
    access: Access,
    base: str,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RFC 9110 section 7.3.2; the log-in goes with each request (section 11.7.1)."""
    address, server = proxy
    host = f"plain.test:{registry.address.rpartition(':')[2]}"
    plain = Access(insecure=frozenset({host}), authority=access.authority)
    monkeypatch.setenv("http_proxy", with_login(address))
    report = run(base, f"{host}/{repository}:1", store, bundle, plain)
    assert (
        run(f"{host}/{repository}:1", f"{host}/{repository}2:1", store, bundle, plain).digest == report.digest
    )
    assert len(server.asked) > 10
    assert all(line.split()[1].startswith(f"http://{host}/v2/") for line in server.asked)


@pytest.mark.parametrize("names", ["registry.test", ".test", "*", "other.test, registry.test"])
def test_no_proxy_names_registries_that_are_reached_directly(
    names: str,
    tls_registry: tuple[str, Path],
    access: Access,
    base: str,
    repository: str,
    store: Store,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The usual variable: names, domains with a dot, or all of them."""
    target = f"registry.test:{tls_registry[0]}/{repository}:1"
    monkeypatch.setenv("HTTPS_PROXY", "http://jo:pw@proxy.test:1")
    with pytest.raises(TransportError, match="Cannot reach") as refused:
        run(base, target, store, bundle, access)
    assert "pw" not in str(refused.value)
    monkeypatch.setenv("NO_PROXY", names)
    assert run(base, target, store, bundle, access).layers_sent == 4

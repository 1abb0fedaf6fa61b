"""One registry host: where it may send us, what it may ask for, proxies, and the limits of a body."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graftbox.errors import ConfigurationError, TransportError
from graftbox.image.host import Host, Settings
from graftbox.image.pool import Headers
from graftbox.image.retry import Patience

HOST = "registry.example"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no stored credential."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def located(location: str, host: str = HOST, base: str | None = None) -> str:
    scheme = "http" if host.startswith("127.") else "https"
    url = base or f"{scheme}://{host}/v2/a/blobs/uploads/"
    answer: Any = SimpleNamespace(url=url, headers=Headers.of([(b"LOCATION", location.encode())]))
    return Host(host, Settings()).locate(answer)


@pytest.mark.parametrize(
    ("location", "meant"),
    [
        ("/v2/a/blobs/uploads/1?_state=x", f"https://{HOST}/v2/a/blobs/uploads/1?_state=x"),
        ("1?_state=x", f"https://{HOST}/v2/a/blobs/uploads/1?_state=x"),
        (f"https://{HOST}/x", f"https://{HOST}/x"),
        (f"http://{HOST}/x", f"https://{HOST}/x"),
        (f"http://{HOST}:80/x", f"https://{HOST}/x"),
        ("//storage.example/x", "https://storage.example/x"),
        ("https://storage.example:8443/x?sig=y", "https://storage.example:8443/x?sig=y"),
    ],
)
def test_a_location_may_be_relative_elsewhere_or_wrong_about_tls(location: str, meant: str) -> None:
    """RFC 9110 section 10.2.2: a Location is resolved against the request's address."""
    assert located(location) == meant


@pytest.mark.parametrize(
    "location",
    [
        "http://storage.example/x",
        "https://127.0.0.1/x",
        "https://localhost:9000/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://0.0.0.0/x",
        "ftp://storage.example/x",
        "file:///etc/passwd",
    ],
)
def test_a_registry_cannot_send_us_into_this_machine_or_out_of_tls(location: str) -> None:
    with pytest.raises(TransportError, match=r"refused|without TLS"):
        located(location)


def test_a_registry_on_this_machine_may_send_us_to_this_machine() -> None:
    assert located("http://127.0.0.1:9000/x", "127.0.0.1:5000") == "http://127.0.0.1:9000/x"


def test_a_location_that_is_missing_is_explained() -> None:
    answer: Any = SimpleNamespace(url=f"https://{HOST}/", headers=Headers())
    with pytest.raises(TransportError, match="no place to go on"):
        Host(HOST, Settings()).locate(answer)


class Server(ThreadingHTTPServer):
    """Answers by `answer`, and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.active = self.most = 0
        self.guard = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with server.guard:
                    server.asked.append((self.path, dict(self.headers.items())))
                    server.active += 1
                    server.most = max(server.most, server.active)
                status, headers, body = server.answer(self.path)
                with server.guard:
                    server.active -= 1
                self.send_response_only(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        return self.answers.get(path, (200, {}, b"ok"))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


def test_a_proxy_of_the_environment_is_used_with_its_own_log_in(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://jo:p%40ss@127.0.0.1:{server.server_port}")
    host = Host("registry.invalid", Settings(frozenset({"registry.invalid"})))
    assert host.request("GET", "/v2/", frozenset()).content == b"ok"
    host.close()
    ((path, headers),) = server.asked
    assert path == "http://registry.invalid/v2/"
    assert headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"jo:p@ss").decode()
    assert headers["Host"] == "registry.invalid"


def test_no_proxy_is_heeded_and_loopback_never_goes_through_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    address = f"127.0.0.1:{server.server_port}"
    host = Host(address, Settings())
    assert host.request("GET", "/v2/", frozenset()).content == b"ok"
    host.close()


def test_a_socks_proxy_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    host = Host("registry.invalid", Settings(frozenset({"registry.invalid"})))
    with pytest.raises(ConfigurationError, match="socks5"):
        host.request("GET", "/v2/", frozenset())


def test_a_log_in_is_not_sent_without_tls(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    auth = base64.b64encode(b"jo:pw").decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {HOST: {"auth": auth}}}))
    host = Host(HOST, Settings())
    answer: Any = SimpleNamespace(
        headers=Headers.of([(b"WWW-Authenticate", b'Bearer realm="http://auth.example/t"')])
    )
    with pytest.raises(TransportError, match="without TLS"):
        host._login.renewed(answer, frozenset({"repository:a:pull"}), None)


def test_requests_at_one_host_are_limited(server: Server) -> None:
    host = Host(f"127.0.0.1:{server.server_port}", Settings(parallel=3))
    answer = server.answer

    def slow(path: str) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.02)
        return answer(path)

    server.answer = slow  # type: ignore[method-assign]
    threads = [threading.Thread(target=host.request, args=("GET", "/", frozenset())) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    host.close()
    assert len(server.asked) == 12
    assert server.most <= 3


def test_a_limit_is_waited_for_by_everybody(server: Server) -> None:
    """RFC 6585 section 4: 429 speaks to the client, not to the request."""
    host = Host(f"127.0.0.1:{server.server_port}", Settings(patience=Patience(first=0.01)))
    told = time.monotonic()
    server.answers["/limited"] = 429, {"Retry-After": "1"}, b""
    thread = threading.Thread(target=host.request, args=("GET", "/limited", frozenset()), daemon=True)
    thread.start()
    while not host._not_before:
        assert thread.is_alive()
        time.sleep(0.001)
    del server.answers["/limited"]
    host.request("GET", "/other", frozenset())
    assert time.monotonic() - told > 1
    thread.join()
    host.close()


def test_redirects_in_a_circle_end(server: Server) -> None:
    server.answers["/a"] = 307, {"Location": "/a"}, b""
    host = Host(f"127.0.0.1:{server.server_port}", Settings())
    with pytest.raises(TransportError, match="circle"):
        host.request("GET", "/a", frozenset())
    host.close()


def test_addresses_of_every_form_are_asked_for_as_they_are(server: Server) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    host = Host(f"127.0.0.1:{server.server_port}", Settings())
    for url in (
        "/v2/",
        f"{address}/a?b=c%2Fd&e=f",
        f"{address}?x=/y",
        address,
        f"{address}/ü ö#part",
        "/a?x=1#y",
    ):
        host.request("GET", url, frozenset())
    host.close()
    paths = [path for path, _ in server.asked]
    assert paths == ["/v2/", "/a?b=c%2Fd&e=f", "/?x=/y", "/", "/%C3%BC%20%C3%B6", "/a?x=1"]

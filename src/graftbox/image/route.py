"""How a server is reached: directly or through a proxy, with TLS or without."""

from __future__ import annotations

import base64
import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass

import h11
import httpcore2

from graftbox.errors import ConfigurationError
from graftbox.image.channel import READ, WRITE, Channel

CONNECT = 10.0
"""Seconds."""
PORTS = {"http": 80, "https": 443}
Line = tuple[bytes, bytes]


@dataclass(frozen=True)
class Proxy:
    """A proxy of HTTP; ``login`` is the header field that it wants, if any."""

    scheme: str
    host: str
    port: int
    login: tuple[Line, ...]

    @classmethod
    @functools.lru_cache(16)
    def parse(cls, text: str) -> Proxy:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme not in PORTS:
            raise ConfigurationError(
                f"The proxy for registries is of type {parts.scheme!r}; graftbox knows http and https ones. "
                "Change the variable https_proxy, or name the registry in no_proxy."
            )
        login: tuple[Line, ...] = ()
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            login = ((b"Proxy-Authorization", b"Basic " + base64.b64encode(pair.encode())),)
        return cls(parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme], login)

    def connect(self) -> httpcore2.NetworkStream:
        stream = httpcore2.SyncBackend().connect_tcp(self.host, self.port, timeout=CONNECT)
        if self.scheme == "https":
            stream = stream.start_tls(httpcore2.default_ssl_context(), self.host, timeout=CONNECT)
        return stream


@dataclass(frozen=True)
class Route:
    """The way to one server; ``header`` is the ``Host`` field for it."""

    scheme: str
    host: str
    port: int
    header: bytes
    proxy: Proxy | None = None

    def connect(self, context: ssl.SSLContext | None) -> Channel:
        """A new connection; raises what `pool.in_words` knows to translate."""
        if self.proxy is not None:
            stream = self.proxy.connect()
            if self.scheme == "https":
                self._tunnel(stream, self.proxy)
        else:
            stream = httpcore2.SyncBackend().connect_tcp(self.host, self.port, timeout=CONNECT)
        if self.scheme == "https":
            context = context or httpcore2.default_ssl_context()
            stream = stream.start_tls(context, self.host, timeout=CONNECT)
        return Channel(stream)

    def _tunnel(self, stream: httpcore2.NetworkStream, proxy: Proxy) -> None:
        """Has the proxy pass on what follows (RFC 9110 section 9.3.6)."""
        state = h11.Connection(h11.CLIENT)
        host = f"[{self.host}]" if ":" in self.host else self.host
        target = f"{host}:{self.port}".encode()
        request = h11.Request(method="CONNECT", target=target, headers=[(b"Host", target), *proxy.login])
        try:
            stream.write((state.send(request) or b"") + (state.send(h11.EndOfMessage()) or b""), WRITE)
            while not isinstance(event := state.next_event(), h11.Response):
                if event is h11.NEED_DATA:
                    state.receive_data(stream.read(4096, READ))
            if not 200 <= event.status_code < 300:
                reason = event.reason.decode("ascii", "ignore")
                raise httpcore2.ProxyError(f"{event.status_code} {reason}".strip())
        except BaseException:
            stream.close()
            raise

    def asked(self, target: str) -> tuple[bytes, tuple[Line, ...]]:
        """A path as the first line of a request has it, and the header fields that go with that."""
        if self.proxy is None or self.scheme == "https":
            return target.encode(), ()
        return b"http://" + self.header + target.encode(), self.proxy.login


def route(scheme: str, netloc: str, proxies: Mapping[str, str]) -> Route:
    """The way to ``netloc``; ``proxies`` are those of the environment, by scheme."""
    if not netloc.isascii():
        netloc = netloc.encode("idna").decode()
    parts = urlsplit(f"//{netloc}")
    text = proxies.get(scheme) or proxies.get("all") or ""
    proxy = Proxy.parse(text) if text and not proxy_bypass(netloc) else None
    header = netloc.rpartition("@")[2].encode()
    return Route(scheme, parts.hostname or "", parts.port or PORTS[scheme], header, proxy)

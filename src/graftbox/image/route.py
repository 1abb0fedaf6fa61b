"""How a server is reached: directly or through a proxy, with TLS or without."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from graftbox.errors import ConfigurationError
from graftbox.image import stream
from graftbox.image.channel import Channel
from graftbox.image.stream import Stream, UnreachableError

if TYPE_CHECKING:
    import ssl

PORTS = {"http": 80, "https": 443}
Line = tuple[bytes, bytes]
Trust = Callable[[], "ssl.SSLContext"]
"""Says which certificates count; asked only where TLS is spoken."""


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

    def connect(self, trust: Trust, patience: float) -> Stream:
        if self.scheme == "http":
            return stream.tcp(self.host, self.port, patience)
        return stream.nesting(self.host, self.port, patience).secured(trust(), self.host)


@dataclass(frozen=True)
class Route:
    """The way to one server; ``header`` is the ``Host`` field for it."""

    scheme: str
    host: str
    port: int
    header: bytes
    proxy: Proxy | None = None

    def connect(self, trust: Trust, patience: float) -> Channel:
        """A new connection; raises what `pool.in_words` knows to translate."""
        if self.scheme == "unix":
            return Channel(stream.unix(self.host, patience))
        if self.proxy is None:
            made = stream.tcp(self.host, self.port, patience)
        else:
            made = self.proxy.connect(trust, patience)
            if self.scheme == "https":
                self._tunnel(made, self.proxy)
        if self.scheme == "https":
            made = made.secured(trust(), self.host)
        return Channel(made)

    def _tunnel(self, made: Stream, proxy: Proxy) -> None:
        """Has the proxy pass on what follows (RFC 9110 section 9.3.6)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        target = f"{host}:{self.port}".encode()
        channel = Channel(made)
        try:
            answer = channel.ask("CONNECT", target, [(b"Host", target), *proxy.login], None)
            if not 200 <= answer.status_code < 300:
                reason = answer.reason.decode("ascii", "ignore")
                raise UnreachableError(f"{answer.status_code} {reason}".strip())
        except BaseException:
            channel.close()
            raise

    def asked(self, target: str) -> tuple[bytes, tuple[Line, ...]]:
        """A path as the first line of a request has it, and the header fields that go with that."""
        if self.proxy is None or self.scheme == "https":
            return target.encode(), ()
        return b"http://" + self.header + target.encode(), self.proxy.login


def route(scheme: str, netloc: str, proxies: Mapping[str, str], socket: str = "") -> Route:
    """The way to ``netloc``; ``proxies`` are those of the environment, by scheme.

    With ``socket``, the way to this Unix socket, behind which ``netloc`` is only a name.
    """
    if socket:
        return Route("unix", socket, 0, netloc.encode())
    if not netloc.isascii():
        netloc = netloc.encode("idna").decode()
    parts = urlsplit(f"//{netloc}")
    text = proxies.get(scheme) or proxies.get("all") or ""
    proxy = None
    if text:
        from urllib.request import proxy_bypass

        proxy = None if proxy_bypass(netloc) else Proxy.parse(text)
    header = netloc.rpartition("@")[2].encode()
    return Route(scheme, parts.hostname or "", parts.port or PORTS[scheme], header, proxy)

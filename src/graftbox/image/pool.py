"""HTTP as registries need it: kept connections, proxies by environment, and answers that are read in pieces.

Directly on httpcore2, the connection pool below httpx2: half the processor time per request, which is
what a batch of thousands of images consists of.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2

from graftbox.errors import ConfigurationError
from graftbox.image.retry import BrokenError

Content = bytes | Iterable[bytes] | None

TIMEOUTS = {"timeout": {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": 60.0}}
"""Seconds; a read or write that makes no progress for so long is broken."""
IDLE = 30.0
"""Seconds after which an unused connection is closed: before most servers do it."""
BREAKS = (
    httpcore2.ConnectionNotAvailable,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.TimeoutException,
)
NO_CONNECTION = (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.ProxyError)
# Its debug lines hold whole headers, and with them signed addresses and tokens.
logging.getLogger("httpcore2").setLevel(logging.WARNING)

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)
SAFE = "%/:?#[]@!$&'()*+,;=~"


@dataclass(frozen=True)
class Sent:
    """A request as it went out."""

    method: str
    url: str
    headers: Mapping[str, str]


class Headers(dict[str, str]):
    """Header fields by name, in any spelling; fields that came more than once are joined by commas."""

    @classmethod
    def of(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        headers = cls()
        for name, value in raw:
            key, text = name.decode("ascii", "replace").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return headers

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())


class Response:
    """An answer; ``content`` is its body once somebody has read its `pieces`. `close` it."""

    def __init__(self, raw: httpcore2.Response, request: Sent) -> None:
        self._raw = raw
        self.request, self.url = request, request.url
        self.status_code = raw.status
        self.headers = Headers.of(raw.headers)
        self.content = b""
        self._begun = False

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def is_redirect(self) -> bool:
        return self.status_code in {301, 302, 303, 307, 308} and "Location" in self.headers

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives; nothing the second time."""
        if not self._begun:
            self._begun = True
            yield from self._raw.iter_stream()

    @property
    def text(self) -> str:
        """What was read."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """What was read; `ValueError` if it is not JSON."""
        return json.loads(self.content)

    def close(self) -> None:
        self._raw.close()


@dataclass(frozen=True)
class _Place:
    """A server as httpcore2 wants it named, and the ``Host`` field for it."""

    scheme: bytes
    host: bytes
    port: int | None
    header: bytes


@functools.lru_cache(256)
def _place(scheme: str, netloc: str) -> _Place:
    if not netloc.isascii():
        netloc = netloc.encode("idna").decode()
    parts = urlsplit(f"//{netloc}")
    header = netloc.rpartition("@")[2]
    return _Place(scheme.encode(), (parts.hostname or "").encode(), parts.port, header.encode())


class Pool:
    """Connections to any host, one proxy for each scheme at most; for many threads."""

    def __init__(self, context: ssl.SSLContext | None, agent: str, kept: int, use_proxies: bool) -> None:
        self._context, self._kept = context, kept
        self._agent = agent.encode()
        self._proxies = getproxies() if use_proxies else {}
        self._pools: dict[str, httpcore2.ConnectionPool] = {}

    def send(self, method: str, url: str, headers: Mapping[str, str], content: Content) -> Response:
        """One request. Raises what `in_words` knows to translate."""
        found = _URL.match(url)
        assert found is not None, "addresses are checked before they come here"
        scheme, netloc, target = found[1].lower(), found[2], found[3]
        target = target if target.startswith("/") else f"/{target}"
        if not target.isascii() or not target.isprintable() or " " in target:
            target = quote(target, SAFE)
        place = _place(scheme, netloc)
        where = httpcore2.URL(scheme=place.scheme, host=place.host, port=place.port, target=target.encode())
        lines = [(b"Host", place.header), (b"User-Agent", self._agent)]
        if method == "GET":
            lines.append((b"Accept-Encoding", b"identity"))
        if isinstance(content, bytes) and "Content-Length" not in headers:
            lines.append((b"Content-Length", str(len(content)).encode()))
        lines += [(name.encode(), value.encode()) for name, value in headers.items()]
        request = httpcore2.Request(method, where, headers=lines, content=content, extensions=TIMEOUTS)
        raw = self._pool(scheme, netloc).handle_request(request)
        return Response(raw, Sent(method, url, headers))

    def _pool(self, scheme: str, netloc: str) -> httpcore2.ConnectionPool:
        proxy = self._proxies.get(scheme) or self._proxies.get("all") or ""
        if proxy and proxy_bypass(netloc):
            proxy = ""
        if proxy not in self._pools:
            self._pools.setdefault(proxy, self._made(proxy))
        return self._pools[proxy]

    def _made(self, proxy: str) -> httpcore2.ConnectionPool:
        common: dict[str, Any] = {
            # One that is never used may as well be empty: making a TLS context takes 20 ms.
            "ssl_context": self._context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "max_connections": None,
            "max_keepalive_connections": self._kept,
            "keepalive_expiry": IDLE,
        }
        if not proxy:
            return httpcore2.ConnectionPool(**common)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme not in {"http", "https"}:
            raise ConfigurationError(
                f"The proxy for registries is of type {parts.scheme!r}; graftbox knows http and https ones. "
                "Change the variable https_proxy, or name the registry in no_proxy."
            )
        login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        return httpcore2.HTTPProxy(address, proxy_auth=login, **common)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


def joined(base: str, location: str) -> str:
    """The whole address that a ``Location`` means."""
    return urljoin(base, location)


def in_words(error: Exception, registry: str) -> BrokenError:
    """One of `BREAKS`, for people."""
    # Many of these carry no text of their own.
    why = str(error) or type(error).__name__
    if isinstance(error, NO_CONNECTION):
        return BrokenError(
            f"Cannot reach the registry {registry} ({why}). Check its name and port, the network, and "
            "proxies; a registry without TLS needs --plain-http, one with a certificate of its own --ca.",
            unreachable=True,
        )
    if isinstance(error, httpcore2.TimeoutException):
        return BrokenError(f"The registry {registry} did not answer in time; try again.")
    return BrokenError(
        f"The connection to the registry {registry} broke ({why}); nothing half-read was kept. "
        "Run the command again."
    )

"""HTTP as registries need it: kept connections, proxies by environment, answers that are read in pieces."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin

import h11

from graftbox.image.channel import Channel, Content
from graftbox.image.retry import BrokenError
from graftbox.image.route import Route, Trust, route
from graftbox.image.stream import LostError, SlowError, UnreachableError

PATIENCE = 60.0
"""Seconds; a read or write that makes no progress for so long is broken."""
BREAKS = (h11.ProtocolError, LostError)

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

    def __init__(
        self, request: Sent, raw: h11.Response, channel: Channel, give_back: Callable[[Channel], None]
    ) -> None:
        self.request, self.url = request, request.url
        self.status_code = raw.status_code
        self.headers = Headers.of(raw.headers)
        self.content = b""
        self._channel, self._give_back = channel, give_back
        self._begun = self._closed = False

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
            yield from self._channel.pieces()

    @property
    def text(self) -> str:
        """What was read."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """What was read; `ValueError` if it is not JSON."""
        return json.loads(self.content)

    def close(self) -> None:
        """Gives the connection back; one with an unread rest is closed."""
        if not self._closed:
            self._closed = True
            self._give_back(self._channel)


class Pool:
    """Connections to any host, one proxy for each scheme at most; for many threads.

    ``trust`` says which certificates count, those of proxies too. With ``socket``, all connections go to this
    Unix socket, whatever host they name.
    """

    def __init__(
        self,
        trust: Trust,
        agent: str,
        kept: int,
        use_proxies: bool,
        socket: str = "",
        patience: float = PATIENCE,
    ) -> None:
        self._trust, self._kept, self._patience = trust, kept, patience
        self._agent = agent.encode()
        proxies: dict[str, str] = {}
        if use_proxies:
            from urllib.request import getproxies

            proxies = getproxies()
        self._route = functools.lru_cache(256)(functools.partial(route, proxies=proxies, socket=socket))
        self._guard = threading.Lock()
        self._idle: list[tuple[Route, Channel]] = []
        self._closed = False

    def send(self, method: str, url: str, headers: Mapping[str, str], content: Content) -> Response:
        """One request. Raises what `in_words` knows to translate."""
        found = _URL.match(url)
        assert found is not None, "addresses are checked before they come here"
        way, target = self._route(found[1].lower(), found[2]), found[3]
        target = target if target.startswith("/") else f"/{target}"
        if not target.isascii() or not target.isprintable() or " " in target:
            target = quote(target, SAFE)
        asked, lines = way.asked(target)
        fields = [(b"Host", way.header), (b"User-Agent", self._agent), *lines]
        if method == "GET":
            fields.append((b"Accept-Encoding", b"identity"))
        if isinstance(content, bytes) and "Content-Length" not in headers:
            fields.append((b"Content-Length", b"%d" % len(content)))
        fields += [(name.encode(), value.encode()) for name, value in headers.items()]
        channel = self._taken(way)
        try:
            answer = channel.ask(method, asked, fields, content)
        except BaseException:
            channel.close()
            raise
        return Response(Sent(method, url, headers), answer, channel, functools.partial(self._take_back, way))

    def _taken(self, way: Route) -> Channel:
        """A connection, the latest used first: a kept one that is still good, or a new one."""
        while channel := self._kept_one(way):
            if channel.is_usable:
                return channel
            channel.close()
        return way.connect(self._trust, self._patience)

    def _kept_one(self, way: Route) -> Channel | None:
        with self._guard:
            for number in range(len(self._idle) - 1, -1, -1):
                if self._idle[number][0] == way:
                    return self._idle.pop(number)[1]
        return None

    def _take_back(self, way: Route, channel: Channel) -> None:
        """Keeps a connection whose answer was read to its end; closes others, and the oldest of too many."""
        if not channel.rewind():
            channel.close()
            return
        superfluous = []
        with self._guard:
            self._idle.append((way, channel))
            kept = 0 if self._closed else self._kept
            while len(self._idle) > kept or (self._idle and self._idle[0][1].is_expired):
                superfluous.append(self._idle.pop(0)[1])
        for other in superfluous:
            other.close()

    def close(self) -> None:
        """Closes what is not under way; that follows when its answer was read."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, channel in idle:
            channel.close()


def joined(base: str, location: str) -> str:
    """The whole address that a ``Location`` means."""
    return urljoin(base, location)


def in_words(error: Exception, registry: str) -> BrokenError:
    """One of `BREAKS`, for people."""
    # Many of these carry no text of their own.
    why = str(error) or type(error).__name__
    if isinstance(error, UnreachableError):
        return BrokenError(
            f"Cannot reach the registry {registry} ({why}). Check its name and port, the network, and "
            "proxies; a registry without TLS needs --plain-http, one with a certificate of its own --ca.",
            unreachable=True,
        )
    if isinstance(error, SlowError):
        return BrokenError(f"The registry {registry} did not answer in time; try again.")
    return BrokenError(
        f"The connection to the registry {registry} broke ({why}); nothing half-read was kept. "
        "Run the command again."
    )

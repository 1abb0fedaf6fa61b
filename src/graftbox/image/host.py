"""One registry host: its connections, log-in and patience, shared by all its repositories and all threads."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from graftbox import __version__
from graftbox.errors import TransportError
from graftbox.image.auth import Scopes, TokenRequest
from graftbox.image.channel import PIECE
from graftbox.image.login import Login
from graftbox.image.pool import BREAKS, Pool, Response, in_words, joined
from graftbox.image.reference import DOCKER_HUB
from graftbox.image.retry import AGAIN, PATIENCE, BrokenError, Patience, retry_after
from graftbox.image.transports import is_loopback

if TYPE_CHECKING:
    import ssl

REDIRECTS = 5
ANSWER_LIMIT = 16 << 20
"""Bytes of an answer that is neither blob nor manifest, such as a list of tags."""

Body = bytes | Callable[[], Iterator[bytes]] | None
"""What a request sends; a function is called anew for each attempt."""


@dataclass(frozen=True)
class Settings:
    """How registries may be spoken to."""

    plain_http: frozenset[str] = frozenset()
    """Hosts that are spoken to without TLS; loopback addresses always are."""
    authority: Path | None = None
    """A further certificate authority: a PEM file, or a folder of them."""
    parallel: int = 8
    """Requests under way at one host."""
    patience: Patience = field(default_factory=lambda: PATIENCE)


class Host:
    """A registry as seen by one user. Credentials never leave its origin, nor its token service."""

    def __init__(self, name: str, settings: Settings, stop: threading.Event | None = None) -> None:
        from graftbox.image import tls

        self.name, self.settings = name, settings
        self._plain = name in settings.plain_http or (is_loopback(name) and not tls.is_configured(name))
        server = "registry-1.docker.io" if name == DOCKER_HUB else name
        self.address = f"{'http' if self._plain else 'https'}://{server}"
        self._origin = origin(self.address)
        self._stop = stop or threading.Event()
        self._slots = threading.BoundedSemaphore(settings.parallel)
        self._login = Login(name, self._plain, self._ask_for_token)
        self._guard = threading.Lock()
        self._not_before = 0.0
        self._answered = False
        self._made: Pool | None = None
        self._trusted: ssl.SSLContext | None = None

    def _pool(self) -> Pool:
        if self._made is None:
            with self._guard:
                self._made = self._made or self._connected()
        return self._made

    def _trust(self) -> ssl.SSLContext:
        """Also of use where the registry itself has no TLS: its token service or the proxy may have it."""
        from graftbox.image import tls

        with self._guard:
            self._trusted = self._trusted or tls.context(self.name, self.settings.authority)
        return self._trusted

    def _connected(self) -> Pool:
        return Pool(
            self._trust,
            agent=f"graftbox/{__version__}",
            kept=self.settings.parallel * 2,
            use_proxies=not is_loopback(self.name),
        )

    # -- asking ------------------------------------------------------------------------------------------

    def request(
        self, method: str, url: str, scopes: Scopes, tries: int | None = None, **arguments: Any
    ) -> Response:
        """A request whose whole answer is read; repeated while that may help, ``tries`` times at most."""
        return self._patiently(lambda: self.once(method, url, scopes, **arguments), tries)

    def once(self, method: str, url: str, scopes: Scopes, **arguments: Any) -> Response:
        """One attempt, its whole answer read."""
        return self._read(self.send(method, url, scopes, **arguments))

    def _read(self, response: Response) -> Response:
        """Reads an answer that is no blob; one that is read to its end leaves the connection usable."""
        pieces, size = [], 0
        try:
            for piece in self.decoded(response):
                pieces.append(piece)
                size += len(piece)
                if size > ANSWER_LIMIT:
                    raise TransportError(f"{self.name} sends an answer without end; nothing of it was used.")
        finally:
            response.close()
        response.content = b"".join(pieces)
        return response

    @contextlib.contextmanager
    def stream(self, method: str, url: str, scopes: Scopes, **arguments: Any) -> Iterator[Response]:
        """A request whose answer is read by the caller; repeated while no answer has begun."""
        # No slot is taken: a stream may be read while another request, which holds one, is being sent.
        response = self._patiently(lambda: self.send(method, url, scopes, **arguments), slot=False)
        try:
            yield response
        finally:
            response.close()

    def _patiently(
        self, attempt: Callable[[], Response], limit: int | None = None, slot: bool = True
    ) -> Response:
        tries = 0
        while True:
            tries += 1
            self._wait(max(0.0, self._not_before - time.monotonic()))
            failure: BrokenError | None = None
            try:
                with self._slots if slot else contextlib.nullcontext():
                    response = attempt()
                asked = retry_after(response.headers.get("Retry-After"))
                if response.status_code not in AGAIN:
                    return response
            except BrokenError as error:
                failure, asked = error, None
            pause = None if tries == limit else self.settings.patience.pause(tries, asked)
            if pause is None or (failure is not None and failure.unreachable and not self._answered):
                if failure is not None:
                    raise failure
                return response
            if failure is None:
                response.close()
                if response.status_code == 429 and asked:
                    # It speaks to all of us, not to this request only.
                    self._not_before = max(self._not_before, time.monotonic() + asked)
            self._wait(pause)

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and self._stop.wait(seconds):
            raise TransportError(f"Stopped while waiting for {self.name}.")

    def pause(self, attempt: int, response: Response | None = None) -> bool:
        """Waits before another attempt of a caller's own; False if it is time to give up."""
        asked = retry_after(response.headers.get("Retry-After")) if response is not None else None
        seconds = self.settings.patience.pause(attempt, asked)
        if seconds is None:
            return False
        self._wait(seconds)
        return True

    def send(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        *,
        headers: dict[str, str] | None = None,
        content: Body = None,
        params: dict[str, str] | None = None,
    ) -> Response:
        """One request, with a log-in where it is asked for; the answer's body is not read yet."""
        ours = url.startswith("/") or origin(url) == self._origin
        target = self.address + url if url.startswith("/") else url
        authorization = self._login.authorization(scopes) if ours else None

        def attempt() -> Response:
            extra = {"Authorization": authorization} if authorization else {}
            return self._open(method, target, {**(headers or {}), **extra}, content, params)

        response = attempt()
        for _ in range(2):
            if response.status_code != 401 or not ours:
                break
            try:
                renewed = self._login.renewed(response, scopes, authorization)
            except BaseException:
                response.close()
                raise
            if renewed is None or renewed == authorization:
                break
            self._read(response)
            authorization = renewed
            response = attempt()
        if method in {"GET", "HEAD"} and response.is_redirect:
            return self._follow(method, response, headers or {}, authorization, self._origin)
        return response

    def _open(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        content: Body = None,
        params: dict[str, str] | None = None,
    ) -> Response:
        if params:
            url = f"{url}?{urlencode(params)}"
        try:
            response = self._pool().send(method, url, headers, content() if callable(content) else content)
        except BREAKS as error:
            raise in_words(error, self.name) from error
        self._answered = True
        return response

    def _follow(
        self,
        method: str,
        response: Response,
        headers: dict[str, str],
        authorization: str | None,
        home: tuple[str, str, int],
    ) -> Response:
        """Downloads may be elsewhere; the log-in stays at home."""
        for _ in range(REDIRECTS):
            url = self.locate(self._read(response))
            ours = origin(url) == home
            extra = {"Authorization": authorization} if authorization and ours else {}
            response = self._open(method, url, {**headers, **extra})
            if not response.is_redirect:
                return response
        response.close()
        raise TransportError(f"{self.name} redirects in a circle; its configuration is broken.")

    def locate(self, response: Response) -> str:
        """The whole address in ``Location``, which may be relative (RFC 9110 section 10.2.2).

        A registry behind a TLS proxy that calls itself ``http`` is spoken to by TLS all the same. An
        address inside this machine or network segment is refused, unless the registry itself is there.
        """
        location = response.headers.get("Location")
        if not location:
            raise TransportError(f"{self.name} names no place to go on at; its configuration is broken.")
        try:
            url = urlsplit(joined(response.url, location))
            origin(url.geturl())
        except ValueError:
            raise TransportError(f"{self.name} sends us to an address that is none; refused.") from None
        host = url.hostname or ""
        if url.scheme == "http" and not self._plain:
            own = urlsplit(self.address)
            if host != own.hostname:
                raise TransportError(
                    f"{self.name} sends us to {host} without TLS; refused. Its configuration is broken."
                )
            url = url._replace(scheme="https", netloc=own.netloc)
        if url.scheme not in {"http", "https"} or (_is_inside(host) and not is_loopback(self.name)):
            raise TransportError(f"{self.name} sends us to {url.scheme}://{host}; refused.")
        return url.geturl()

    def _ask_for_token(self, request: TokenRequest) -> Response:
        """The answer of the token service, which may be on any host."""
        headers = {"Authorization": request.authorization} if request.authorization else {}
        if request.form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"

        def attempt() -> Response:
            response = self._open(request.method, request.url, headers, request.form or None)
            if request.method == "GET" and response.is_redirect:
                response = self._follow("GET", response, {}, request.authorization, origin(request.url))
            return self._read(response)

        return self._patiently(attempt, slot=False)

    # -- reading and explaining --------------------------------------------------------------------------

    def body(self, response: Response) -> Iterator[bytes]:
        """The answer's bytes as sent; a connection that breaks or trickles is a `BrokenError`."""
        patience = self.settings.patience
        since, seen = time.monotonic(), 0
        try:
            for chunk in response.pieces():
                yield chunk
                seen += len(chunk)
                now = time.monotonic()
                if now - since > patience.stall:
                    if seen < patience.stall_bytes:
                        raise BrokenError(f"{self.name} sends only {seen} bytes in {now - since:.0f} s.")
                    since, seen = now, 0
        except BREAKS as error:
            raise in_words(error, self.name) from error

    def decoded(self, response: Response) -> Iterator[bytes]:
        """The same without the encoding that a proxy may add unasked (RFC 9110 section 8.4)."""
        chunks = self.body(response)
        if response.headers.get("Content-Encoding", "").lower() not in {"gzip", "x-gzip"}:
            return chunks
        return unzipped(chunks, self.name)

    def check(self, response: Response, action: str) -> None:
        """Raises `TransportError` in words unless the answer is a success."""
        if response.is_success:
            return
        text = ""
        if origin(response.url) == self._origin:
            with contextlib.suppress(BrokenError):
                start = response.content or next(self.decoded(response), b"")
                text = start[:4096].decode(errors="replace").strip()
        detail, code = self._login.without_secrets(text)[:300], response.status_code
        raise TransportError(
            f"{self.name} refused to {action}: {code} {detail}. {_advice(code, text, self.name)}",
            status=code,
            retry_after=retry_after(response.headers.get("Retry-After")),
        )

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def unzipped(chunks: Iterator[bytes], registry: str) -> Iterator[bytes]:
    """The content of a gzip stream, in pieces of bounded size."""
    import zlib

    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for chunk in chunks:
            while chunk:
                yield unzip.decompress(chunk, PIECE)
                chunk = unzip.unconsumed_tail
    except zlib.error as error:
        raise TransportError(
            f"{registry} says that its answer is gzip, and it is not ({error}). Its configuration is "
            "broken, or that of a proxy before it."
        ) from error


def _advice(code: int, answer: str, host: str) -> str:
    if code in {401, 403}:
        return f"Log in: docker login {host}; and check that you may do this."
    if code == 429:
        return "It asks for fewer requests; wait a while, or log in for a higher limit."
    if re.search(r'"Err": ?28\b', answer) or "no space left" in answer.lower():
        return "Its disk is full: free some space there, and run the command again."
    if code >= 500:
        return "The registry is in trouble; try again later."
    if "NAME_UNKNOWN" in answer:
        return "Create the repository first: this registry does not do it by itself."
    return "Check the name and the registry's log."


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what credentials belong to (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)


def _is_inside(host: str) -> bool:
    """Whether this is an address of the machine itself or of its link, where metadata services are."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return is_loopback(host)
    return address.is_loopback or address.is_link_local or address.is_unspecified

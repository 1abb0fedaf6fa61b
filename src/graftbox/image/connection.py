"""One HTTP connection to a registry: addresses, credentials, errors in words."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import httpx2

from graftbox import __version__
from graftbox.errors import GraftboxError, TransportError
from graftbox.image.auth import Authenticator, Challenge, DockerConfigAuthenticator
from graftbox.image.reference import DOCKER_HUB
from graftbox.image.transports import is_loopback

TIMEOUT = httpx2.Timeout(60.0, connect=10.0)


class Connection:
    """A registry host as seen by one user for one repository.

    ``scope`` is what a token is asked for (``repository:NAME:pull,push``). TLS is required except for
    loopback addresses and hosts that the user called insecure.
    """

    def __init__(
        self, host: str, insecure: bool, scope: str, authenticator: Authenticator | None = None
    ) -> None:
        self.host = host
        self._scopes = {scope}
        self._authenticator = authenticator or DockerConfigAuthenticator()
        self._authorization: str | None = None
        plain = insecure or is_loopback(host)
        self._scheme = "http" if plain else "https"
        # Making a TLS context takes 20 ms; one that is never used may as well be empty.
        verify: ssl.SSLContext | bool = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True
        self._client = httpx2.Client(
            verify=verify,
            timeout=TIMEOUT,
            follow_redirects=True,
            trust_env=not is_loopback(host),
            headers={"Accept-Encoding": "identity", "User-Agent": f"graftbox/{__version__}"},
        )

    @property
    def address(self) -> str:
        host = "registry-1.docker.io" if self.host == DOCKER_HUB else self.host
        return f"{self._scheme}://{host}"

    def request(self, method: str, url: str, scope: str | None = None, **arguments: Any) -> httpx2.Response:
        """A request whose whole answer is read. ``scope`` is a further permission that it needs."""
        with self.stream(method, url, scope, **arguments) as response:
            with self._in_words():
                response.read()
            return response

    @contextlib.contextmanager
    def stream(
        self, method: str, url: str, scope: str | None = None, **arguments: Any
    ) -> Iterator[httpx2.Response]:
        """A request whose answer is read by the caller; asked again once with credentials if refused."""
        if scope and scope not in self._scopes and self._authorization is not None:
            self._scopes.add(scope)
        response = self._send(method, url, **arguments)
        try:
            if response.status_code == 401 and self._authorize(response, scope):
                response.close()
                response = self._send(method, url, **arguments)
            yield response
        finally:
            response.close()

    def _send(self, method: str, url: str, **arguments: Any) -> httpx2.Response:
        target = url if "://" in url else self.address + url
        headers = dict(arguments.pop("headers", {}))
        # Credentials belong to this host only; uploads and downloads may be elsewhere.
        if self._authorization and httpx2.URL(target).host == httpx2.URL(self.address).host:
            headers["Authorization"] = self._authorization
        with self._in_words():
            request = self._client.build_request(method, target, headers=headers, **arguments)
            return self._client.send(request, stream=True)

    def _authorize(self, response: httpx2.Response, scope: str | None) -> bool:
        challenge = Challenge.read(response.headers.get("WWW-Authenticate", ""))
        if challenge is None:
            return False
        scopes = self._scopes | ({scope} if scope else set()) | set(challenge.scopes)
        with self._in_words():
            header = self._authenticator.header(self._client, self.host, challenge, frozenset(scopes))
        if header is None or header == self._authorization:
            return False
        self._authorization = header
        return True

    def body(self, response: httpx2.Response) -> Iterator[bytes]:
        """The answer's bytes as sent; a connection that breaks is a `TransportError`."""
        with self._in_words():
            yield from response.iter_raw(1 << 18)

    def forget(self, upload: str) -> None:
        """Tells the registry that an upload will not go on; its answer does not matter."""
        with contextlib.suppress(GraftboxError):
            self._send("DELETE", upload).close()

    def check(self, response: httpx2.Response, action: str) -> None:
        """Raises `TransportError` in words unless the answer is a success."""
        if response.is_success:
            return
        code = response.status_code
        if code in {401, 403}:
            advice = f"Log in: docker login {self.host}; and check that you may do this."
        elif code == 429:
            advice = "It asks for fewer requests; wait a while, or log in for a higher limit."
        elif code >= 500:
            advice = "The registry is in trouble; try again later."
        else:
            advice = "Check the name and the registry's log."
        with self._in_words():
            detail = response.read()[:300].decode(errors="replace").strip()
        raise TransportError(f"{self.host} refused to {action}: {code} {detail}. {advice}")

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as error:
            raise TransportError(
                f"Cannot reach the registry {self.host} ({error}). Check its name and port, the network, and "
                "proxies; a registry without TLS needs --insecure."
            ) from error
        except httpx2.TimeoutException as error:
            raise TransportError(f"The registry {self.host} did not answer in time; try again.") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise TransportError(
                f"The connection to the registry {self.host} broke ({error}); nothing half-read was kept. "
                "Run the command again."
            ) from error

    def close(self) -> None:
        self._client.close()

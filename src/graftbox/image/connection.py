"""Registries that one command talks to, and one repository of one of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from graftbox.errors import GraftboxError
from graftbox.image.host import Host, Settings
from graftbox.image.places import Places
from graftbox.image.pool import Response


class Registries:
    """The hosts of one command: connections, tokens and limits are shared by all its images.

    For many threads. ``stop`` ends every wait for a registry at once.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._hosts: dict[str, Host] = {}
        self._places: dict[str, Places] = {}
        self._guard = threading.Lock()
        self._stop = threading.Event()

    def host(self, name: str) -> Host:
        """The host with this name, the same one each time."""
        with self._guard:
            if name not in self._hosts:
                self._hosts[name] = Host(name, self.settings, self._stop)
            return self._hosts[name]

    def places(self, name: str) -> Places:
        """What is known of where this host's blobs are."""
        with self._guard:
            return self._places.setdefault(name, Places(name))

    def stop(self) -> None:
        """Lets every thread that waits for a registry fail now."""
        self._stop.set()

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()

    def __enter__(self) -> Registries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Connection:
    """One repository of a registry; ``actions`` is what a token is asked for (``pull,push``)."""

    def __init__(self, host: Host, repository: str, actions: str) -> None:
        self.host, self.repository = host, repository
        self.base = f"/v2/{repository}"
        self.scopes = frozenset({f"repository:{repository}:{actions}"})

    def request(self, method: str, url: str, scope: str | None = None, **arguments: Any) -> Response:
        """A request whose whole answer is read. ``scope`` is a further permission that it needs."""
        scopes = self.scopes | {scope} if scope else self.scopes
        return self.host.request(method, url, scopes, **arguments)

    def stream(self, method: str, url: str, **arguments: Any) -> contextlib.AbstractContextManager[Response]:
        """A request whose answer is read by the caller, with `body`."""
        return self.host.stream(method, url, self.scopes, **arguments)

    def send(self, method: str, url: str, **arguments: Any) -> Response:
        """One attempt only, its whole answer read; for callers that know better how to go on."""
        return self.host.once(method, url, self.scopes, **arguments)

    def body(self, response: Response) -> Iterator[bytes]:
        """The answer's bytes; see `Host.body`."""
        return self.host.body(response)

    def decoded(self, response: Response) -> Iterator[bytes]:
        """The answer's content; see `Host.decoded`."""
        return self.host.decoded(response)

    def check(self, response: Response, action: str) -> None:
        """Raises `TransportError` in words unless the answer is a success."""
        self.host.check(response, action)

    def forget(self, upload: str) -> None:
        """Tells the registry that an upload will not go on; its answer does not matter."""
        with contextlib.suppress(GraftboxError):
            self.send("DELETE", upload)

"""What runs sandboxes: one protocol, three engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from graftbox.errors import NotFoundError, UnsupportedError
from graftbox.sandbox.spec import Sandbox, SandboxSpec

DELIVER_GRAFT = "Use --deliver graft, which puts the bundle into the image instead of mounting a folder."


class Engine(Protocol):
    """Starts sandboxes and finds them again from any later process."""

    @property
    def name(self) -> str:
        """``docker``, ``podman`` or ``embedded``."""

    def start(self, spec: SandboxSpec) -> Sandbox:
        """Starts the server's process; it may not answer yet. A failed start leaves nothing behind."""

    def start_again(self, name: str) -> Sandbox:
        """Starts a stopped sandbox with the files, key and settings that it had; its port may be another one.

        One that runs is left as it is. After a failure it is stopped, as before.
        """

    def sandboxes(self) -> list[Sandbox]:
        """All of this engine's sandboxes that graftbox started, running or not."""

    def find(self, name: str) -> Sandbox | None:
        """The sandbox of that name."""

    def stop(self, name: str, grace: float = 10) -> None:
        """Ends its processes, killing what is left after ``grace`` seconds; its files and log stay."""

    def remove(self, name: str, *, force: bool = False) -> None:
        """Deletes it; a running one only with ``force``, else `UsageError`."""

    def logs(self, name: str, *, follow: bool = False) -> Iterator[bytes]:
        """What the server wrote, in pieces; with ``follow`` until it ends."""


def log_tail(engine: Engine, name: str, lines: int = 15) -> str:
    """The last lines of a sandbox's log."""
    text = b"".join(engine.logs(name)).decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def owner(engines: list[Engine], name: str) -> Engine:
    """The engine that has the sandbox; `NotFoundError` if none of these has."""
    for engine in engines:
        if engine.find(name) is not None:
            return engine
    raise NotFoundError(f"There is no sandbox {name!r}; `graftbox ps` lists those that there are.")


def no_mount(what: str) -> UnsupportedError:
    """The error for an engine that cannot see our bundle's folder."""
    return UnsupportedError(f"{what} {DELIVER_GRAFT}")

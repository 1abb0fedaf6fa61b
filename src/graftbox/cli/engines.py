"""Finds the engines of this machine; the only place that knows all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graftbox.errors import TransportError, UnsupportedError, UsageError
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.sandbox.engines import Engine
    from graftbox.sandbox.engines.docker import DockerEngine

NAMES = ("auto", "embedded", "docker", "podman")


def note(text: str) -> None:
    """A remark on the side; the answer itself goes to standard output."""
    print(f"graftbox: {text}", file=sys.stderr)


def embedded(store: Store) -> Engine:
    from graftbox.sandbox.engines.embedded import EmbeddedEngine, system_program

    def program() -> Sequence[str]:
        if found := system_program():
            return found
        from graftbox.bundle.tools import bubblewrap

        return bubblewrap(store)

    return EmbeddedEngine(store, program, note)


def docker(store: Store) -> DockerEngine | None:
    """Docker, if its daemon answers."""
    from graftbox.sandbox.engines.docker import DockerEngine

    engine = DockerEngine(store)
    return engine if engine.running() else None


def podman(store: Store) -> DockerEngine | None:
    """Podman, if it has a service that listens."""
    from graftbox.sandbox.engines.podman import PodmanEngine

    engine = PodmanEngine(store)
    return engine if engine.running() else None


def choose(name: str, store: Store) -> Engine:
    """The engine that the user named; for ``auto`` a running docker, else a running podman, else embedded."""
    if name == "embedded":
        return embedded(store)
    if name == "docker":
        from graftbox.sandbox.engines.docker import DockerEngine

        found = docker(store)
        if found is None:
            raise TransportError(
                f"Docker at {DockerEngine(store).host} does not answer; start it, set DOCKER_HOST, or use "
                "--engine embedded."
            )
        return found
    if name == "podman":
        from graftbox.sandbox.engines.podman import start_service

        return podman(store) or start_service(store)
    if name == "auto":
        return _if_usable(docker, store) or _if_usable(podman, store) or embedded(store)
    raise UsageError(f"There is no engine {name!r}; there are {', '.join(NAMES)}.")


def _if_usable(find: Callable[[Store], DockerEngine | None], store: Store) -> DockerEngine | None:
    """The engine, or a note why it is left aside: nobody asked for it by name."""
    try:
        return find(store)
    except UnsupportedError as error:
        note(f"left aside: {error}")
        return None


def every(store: Store) -> list[Engine]:
    """All engines that may have sandboxes. Podman's service is started for the question if need be."""
    engines: list[Engine] = [embedded(store)]
    if (found := _if_usable(docker, store)) is not None:
        engines.append(found)
    if (other := _if_usable(podman, store)) is not None:
        engines.append(other)
    elif (store.root / "podman-used").exists():
        from graftbox.sandbox.engines.podman import installed, start_service

        if installed():
            engines.append(start_service(store))
    return engines

"""What a sandbox is asked to be, and what a running one is; facts only."""

from __future__ import annotations

import posixpath
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from graftbox.errors import UsageError

LABEL = "io.graftbox.sandbox"
"""Names the sandbox that a container is."""
IMAGE_LABEL = "io.graftbox.sandbox.image"
"""The image as the user named it."""
SOCKET_LABEL = "io.graftbox.sandbox.socket"
"""Where the server's Unix socket is on the host, for sandboxes without a network."""

GUEST_PORT = 60000
GUEST_SOCKET_FOLDER = "/run/graftbox"
GUEST_SOCKET = f"{GUEST_SOCKET_FOLDER}/server.sock"
SERVER_COMMAND = ("/openhands/bin/action-execution-server",)


class Network(Enum):
    """How a sandbox reaches the world; ``bridge`` needs docker or podman."""

    NONE = "none"
    HOST = "host"
    BRIDGE = "bridge"


@dataclass(frozen=True)
class Volume:
    """A folder or file of the host, visible at ``target``."""

    source: Path
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Volume:
        """From ``HOST:GUEST[:ro|:rw]``, both absolute or the host side relative to the current folder."""
        parts = text.split(":")
        if len(parts) not in {2, 3} or not parts[0] or not parts[1].startswith("/"):
            raise UsageError(f"{text!r} is not a volume; write HOST_PATH:/PATH/IN/SANDBOX or add :ro.")
        mode = parts[2] if len(parts) == 3 else "rw"
        if mode not in {"ro", "rw"}:
            raise UsageError(f"{text!r} ends in {mode!r}; a volume's mode is ro or rw.")
        _free(parts[1], f"The volume {text!r}")
        source = Path(parts[0]).absolute()
        if not source.exists():
            raise UsageError(f"The volume's host path {source} does not exist; make it first.")
        return cls(source, parts[1], mode == "ro")


@dataclass(frozen=True)
class EngineImage:
    """An image that the container engine knows by this name."""

    name: str


@dataclass(frozen=True)
class UnpackedImage:
    """An image's files in a folder of this machine, for the embedded engine."""

    rootfs: Path
    config: Mapping[str, Any]
    """The ``config`` object of the image's OCI configuration (``Env``, ``User``, ``WorkingDir`` …)."""


@dataclass(frozen=True)
class SandboxSpec:
    """Everything an engine needs to start one sandbox."""

    name: str
    key: str
    label: str
    """The image as the user named it."""
    base: EngineImage | UnpackedImage
    tree: Path | None
    """A folder whose ``openhands`` child is mounted read-only at /openhands; None for a runtime image."""
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    working_dir: str | None = None
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[str, ...] = ()
    read_only: bool = False
    network: Network | None = None
    """None is the engine's usual one: ``bridge`` for docker and podman, ``host`` for embedded."""
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    port: int | None = None
    """The loopback port to listen on; None for any free one."""

    def facts(self) -> dict[str, Any]:
        """The same as JSON has it; `of` makes it a spec again."""
        document = asdict(self)
        document["network"] = self.network and self.network.value
        document["tree"] = self.tree and str(self.tree)
        document["volumes"] = [[str(one.source), one.target, one.read_only] for one in self.volumes]
        if isinstance(self.base, UnpackedImage):
            document["base"] = {"rootfs": str(self.base.rootfs), "config": dict(self.base.config)}
        return document

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> SandboxSpec:
        """From what `facts` gave. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        base = facts["base"]
        more = {name: tuple(facts[name]) for name in ("tmpfs", "cap_drop")}
        return cls(
            **{
                **facts,
                **more,
                "base": UnpackedImage(Path(base["rootfs"]), base["config"])
                if "rootfs" in base
                else EngineImage(base["name"]),
                "tree": Path(facts["tree"]) if facts["tree"] else None,
                "env": tuple((name, value) for name, value in facts["env"]),
                "volumes": tuple(Volume(Path(source), *rest) for source, *rest in facts["volumes"]),
                "network": Network(facts["network"]) if facts["network"] else None,
            }
        )


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that an engine knows, running or not."""

    name: str
    engine: str
    image: str
    status: str
    """``running`` or ``exited``."""
    url: str
    """``http://127.0.0.1:<port>``, ``unix://<path>``, or empty when it does not run."""
    key: str

    def public(self) -> dict[str, str]:
        """What ``run --detach --json`` prints."""
        return {
            "name": self.name,
            "url": self.url,
            "key": self.key,
            "engine": self.engine,
            "image": self.image,
        }


def checked_name(name: str | None) -> str:
    """A name that every engine accepts; a random one for None."""
    if name is None:
        return f"box-{secrets.token_hex(4)}"
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}", name):
        raise UsageError(
            f"{name!r} cannot name a sandbox; use 2 to 63 letters, digits, dots, dashes and underscores, "
            "a letter or digit first."
        )
    return name


def _free(path: str, what: str) -> None:
    """Raises `UsageError` for a place where a mount would hide what the sandbox is started from.

    Folders in ``/openhands`` may be mounted, as plugins are.
    """
    if posixpath.normpath(f"/{path.lstrip('/')}") in {"/", "/openhands"}:
        raise UsageError(f"{what} would hide the sandbox's own files at {path}; choose another path in it.")


def temporary_folder(path: str) -> str:
    """The path of a folder in memory, as ``--tmpfs`` names it."""
    _free(absolute(path, "--tmpfs"), f"--tmpfs {path}")
    return path


def absolute(path: str, option: str) -> str:
    """``path``, which must be absolute because the sandbox has no current folder to start from."""
    if not path.startswith("/"):
        raise UsageError(f"{option} {path!r} must be an absolute path in the sandbox, such as /{path}.")
    return path


def loopback_port(wanted: int | None = None) -> int:
    """A port of the loopback interface that nothing listens on just now: ``wanted``, or any.

    Raises `UsageError` if ``wanted`` is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise UsageError(
                f"Port {wanted} of 127.0.0.1 cannot be used ({error.strerror}); choose another --port."
            ) from error
        return int(probe.getsockname()[1])


def new_key() -> str:
    """A fresh key for `X-Session-API-Key`, 256 bits."""
    return secrets.token_urlsafe(32)


def variable(text: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """``NAME=VALUE``, or ``NAME`` for the caller's own value (None where the caller has none)."""
    name, equals, value = text.partition("=")
    if not name or "\0" in text:
        raise UsageError(f"{text!r} is not a variable; write NAME=VALUE or NAME.")
    if equals:
        return name, value
    return (name, environ[name]) if name in environ else None


def server_variables(spec: SandboxSpec, port: int, *, loopback: bool = False) -> tuple[tuple[str, str], ...]:
    """What the server is told through its environment; it keeps these from the user's processes.

    ``loopback`` keeps it to 127.0.0.1, for a sandbox in the machine's own network.
    """
    told = [("SESSION_API_KEY", spec.key)]
    if spec.network is Network.NONE:
        return (*told, ("GRAFTBOX_PORT", "0"), ("GRAFTBOX_SOCKET", GUEST_SOCKET))
    if loopback:
        told.append(("GRAFTBOX_HOST", "127.0.0.1"))
    return (*told, ("GRAFTBOX_PORT", str(port)))

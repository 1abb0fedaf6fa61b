"""Dockerfiles that make a runtime image, for those who have to build: pure functions from facts to text.

They need nothing newer than Docker 20.10's classic builder: no heredocs, no mounts, no ``# syntax`` line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from graftbox.errors import UsageError
from graftbox.image.graft import SERVER
from graftbox.image.reference import Reference, Transport

METHOD = "io.graftbox.method"
"""The label that says how an image was built: ``copy``, ``install`` or ``pyinstaller``."""
PACKAGES = ("bash", "ca-certificates", "git", "procps", "python3", "python3-venv", "ripgrep", "tmux")
"""What the traditional way installs by apt."""
PYTHON = (3, 11)
"""The oldest Python that the server runs on."""


class Start(Enum):
    """What the traditional way builds upon, as its model chooses it."""

    SCRATCH = "scratch"
    """The base image: everything is installed."""
    VERSIONED = "versioned"
    """An image of this release on this base, with other dependencies: they are installed anew."""
    LOCK = "lock"
    """An image with these dependencies: only the server's code is copied."""


@dataclass(frozen=True)
class Image:
    """What all ways have in common. ``extra_deps`` is a shell command that is run in the image."""

    base: str
    """As ``FROM`` takes it: see `from_name`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    extra_deps: str | None = None
    entrypoint: Sequence[str] = tuple(SERVER)
    cmd: Sequence[str] = ()


def from_name(base: Reference) -> str:
    """The base as ``FROM`` takes it; `UsageError` for one that builders cannot reach.

    References are parsed before they get here, so no name can hold anything but a name.
    """
    if base.transport is Transport.SCRATCH:
        return "scratch"
    if base.transport in {Transport.REGISTRY, Transport.DOCKER_DAEMON}:
        return str(base.image_name)
    raise UsageError(
        f"{base} is a file, and a Dockerfile names images that its builder pulls or holds. Load it into the "
        "engine first (docker load, podman load), or use graftbox graft, which reads files."
    )


def copy(image: Image, bundle_image: str) -> str:
    """Takes ``/openhands`` out of the bundle's own image (``graftbox bundle push``)."""
    return _lines(
        f"# Adds the bundle {bundle_image} to {image.base}, by graftbox.",
        f"FROM {image.base}",
        "",
        f"COPY --from={bundle_image} /openhands /openhands",
        *_ending(image),
    )


def add(image: Image, archives: Sequence[str]) -> str:
    """Unpacks the bundle's layers, which are files of the build context: needs no image but the base."""
    return _lines(
        f"# Adds the bundle, whose layers are beside this file, to {image.base}, by graftbox.",
        f"FROM {image.base}",
        "",
        *(f"ADD {name} /" for name in archives),
        *_ending(image),
    )


def pyinstaller(image: Image, folder: str = "openhands") -> str:
    """Copies the server as one binary with its own libraries: a folder of the build context."""
    return _lines(
        f"# Adds the server as a PyInstaller binary to {image.base}, by graftbox.",
        "# The folder is the bundle's pyinstaller flavour; nothing of it uses the base's libraries.",
        f"FROM {image.base}",
        "",
        f"COPY {folder} /openhands",
        *_ending(image),
    )


def install(image: Image, start: Start, built_on: str | None = None) -> str:
    """The traditional way: packages and Python dependencies are installed inside the image.

    ``built_on`` is the earlier runtime image for `Start.VERSIONED` and `Start.LOCK`. The build context
    holds ``requirements.txt`` and the folder ``openhands``.
    """
    lines = [
        f"# Installs the server in {image.base} ({start.value}), by graftbox. The other ways need no apt,",
        "# no shell, no network and no root.",
        f"FROM {image.base if start is Start.SCRATCH else built_on}",
        "",
        # Stays: who the base's own user is cannot be seen from here.
        "USER root",
    ]
    if start is Start.SCRATCH:
        lines += _packages(image.base)
    if start is not Start.LOCK:
        lines += [
            "COPY requirements.txt /openhands/requirements.txt",
            "RUN /openhands/venv/bin/pip install --no-cache-dir --requirement /openhands/requirements.txt",
        ]
    return _lines(*lines, "COPY openhands /openhands", *_ending(image))


def _packages(base: str) -> list[str]:
    no_apt = (
        f"graftbox: --method install needs apt-get, which {base} has not. Use --method copy, or graftbox "
        "graft: they need nothing of the image."
    )
    oldest = ".".join(map(str, PYTHON))
    old = (
        f"graftbox: --method install needs Python {oldest} or newer, and the packages of {base} have an "
        "older one. Use --method copy, or graftbox graft: they bring their own."
    )
    *first, last = PACKAGES
    return [
        f"RUN command -v apt-get > /dev/null || {{ echo '{no_apt}' >&2; exit 1; }}",
        "RUN apt-get update \\",
        " && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \\",
        *(f"        {name} \\" for name in first),
        f"        {last} \\",
        " && rm -rf /var/lib/apt/lists/*",
        f"RUN python3 -c 'import sys; sys.exit(sys.version_info < {PYTHON})' \\",
        f" || {{ echo '{old}' >&2; exit 1; }}",
        "RUN python3 -m venv /openhands/venv",
    ]


def _ending(image: Image) -> list[str]:
    lines = []
    if image.extra_deps:
        # The exec form takes any text, with quotes and line ends; builders expand nothing in it.
        lines.append(f"RUN {json.dumps(['/bin/sh', '-c', image.extra_deps])}")
    if image.user:
        lines.append(f"USER {quoted(image.user)}")
    if image.labels:
        labels = [f"{name}={quoted(value)}" for name, value in sorted(image.labels.items())]
        lines += ["", "LABEL " + " \\\n      ".join(labels)]
    lines.append(f"ENTRYPOINT {json.dumps(list(image.entrypoint))}")
    # After ENTRYPOINT, which makes builders forget the base's own.
    return [*lines, f"CMD {json.dumps(list(image.cmd))}"] if image.cmd else lines


def quoted(text: str) -> str:
    """A value for instructions in which builders expand variables (LABEL, USER)."""
    if not text.isprintable():
        raise UsageError(f"{text!r} holds characters that cannot be written in a Dockerfile.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"

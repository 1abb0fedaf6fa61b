"""The content of a bundle while it is being made: files, links and folders in memory, by path.

Paths are relative to ``/openhands`` and use ``/``. Owners and times do not exist here and permissions are
one bit, so that nothing of the building machine can reach the result.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ROOT = "/openhands"


@dataclass(frozen=True)
class File:
    """A regular file: 0755 if ``executable``, else 0644. ``origin`` names its package, for messages."""

    data: bytes
    executable: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Link:
    """A symbolic link; ``target`` as the kernel will read it."""

    target: str


@dataclass(frozen=True)
class Folder:
    """A folder that must exist even if nothing is in it."""


Node = File | Link | Folder
Content = dict[str, Node]


def with_parents(content: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    """Every node and every folder above one, each folder before what it holds, sorted by path."""
    nodes: dict[str, Node] = {}
    for path, node in content.items():
        parent = posixpath.dirname(path)
        while parent and parent not in nodes:
            nodes[parent] = Folder()
            parent = posixpath.dirname(parent)
        nodes[path] = node
    yield from sorted(nodes.items(), key=lambda item: item[0].split("/"))


def files(content: Mapping[str, Node]) -> Iterator[tuple[str, File]]:
    """The regular files, sorted by path."""
    for path, node in sorted(content.items()):
        if isinstance(node, File):
            yield path, node


def resolve(content: Mapping[str, Node], path: str) -> str | None:
    """The path of the file or folder that ``path`` leads to inside the bundle, else None."""
    for _ in range(16):
        node = content.get(path)
        if node is None:
            return None
        if not isinstance(node, Link):
            return path
        target = posixpath.normpath(posixpath.join(ROOT, posixpath.dirname(path), node.target))
        if not target.startswith(ROOT + "/"):
            return None
        path = target.removeprefix(ROOT + "/")
    return None

"""The library closure: every shared library that the bundle's ELF files need, and the loader."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping

from graftbox.bundle import elf, rules
from graftbox.bundle.content import Content, File, Link, Node, files
from graftbox.errors import FormatError


def add(
    content: Content,
    available: Mapping[str, Node],
    opened: Iterable[str],
    arch: str,
    below: Mapping[str, Node] | None = None,
) -> None:
    """Adds the loader, the libraries in ``opened``, and all that any ELF file needs, to ``lib/``.

    Not those that ``below``, the content of the layers underneath, has. A name that no package provides
    is a `FormatError` that says who needs it.
    """
    below = below or {}
    loader = rules.LOADERS[arch]
    if "lib/ld.so" not in below:
        content["lib/ld.so"] = _library(loader, available, "every program")
    queue = [(path, file) for path, file in files(content) if elf.is_elf(file.data)]
    for name in opened:
        if f"lib/{name}" in below:
            continue
        content[f"lib/{name}"] = _library(name, available, "the recipe")
        queue.append((f"lib/{name}", _library(name, available, "the recipe")))
    while queue:
        path, file = queue.pop()
        facts = elf.parse(file.data, path)
        for name in facts.needed:
            there = f"lib/{name}" in content or f"lib/{name}" in below
            if name == loader or there or found_beside(path, facts, name, content):
                continue
            library = _library(name, available, f"{path} of {file.origin}")
            content[f"lib/{name}"] = library
            queue.append((f"lib/{name}", library))


def found_beside(path: str, facts: elf.Elf, name: str, content: Content) -> bool:
    """Whether the library lies where the file's own $ORIGIN search path finds it."""
    for search in facts.search_paths:
        for directory in search.directories:
            folder = directory.replace("$ORIGIN", posixpath.dirname(path)).replace(
                "${ORIGIN}", posixpath.dirname(path)
            )
            if posixpath.normpath(f"{folder}/{name}") in content:
                return True
    return False


def _library(name: str, available: Mapping[str, Node], needed_by: str) -> File:
    node = available.get(name)
    for _ in range(8):
        if not isinstance(node, Link):
            break
        node = available.get(posixpath.basename(node.target))
    if not isinstance(node, File):
        raise FormatError(
            f"No package of the lock provides the library {name}, which {needed_by} needs. Add its package "
            "to the recipe and run `graftbox lock`."
        )
    return File(node.data, executable=name.startswith("ld-"), origin=node.origin)

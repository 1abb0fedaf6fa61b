"""Staging: unpacks what a `plan` takes from packages and wheels. Nothing is executed."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from graftbox.bundle import archive, deb, elf, libraries, tgz, whl
from graftbox.bundle.content import Content, File, Folder, Link, Node, files
from graftbox.bundle.plan import Plan, Take
from graftbox.errors import UsageError

WORKERS = 4


def stage(
    plan: Plan,
    packages: Mapping[str, Path],
    wheels: Mapping[str, Path],
    arch: str,
    below: Mapping[str, Node] | None = None,
    modules: Mapping[str, tuple[Path, Sequence[str]]] | None = None,
    compiled: Mapping[str, File] | None = None,
    archives: Mapping[str, tuple[Path, int]] | None = None,
) -> Content:
    """The unrelocated content made of ``packages`` (.deb files) and ``wheels``, both by "name version".

    ``modules`` are npm packages, each with the places that it goes to; ``compiled`` are files at such places;
    ``archives`` are those by "name version", each with the number of folders to drop.
    What ``below``, the content of the layers that it lies on, holds already is not part of it.
    """
    below = below or {}
    with ThreadPoolExecutor(WORKERS) as pool:
        members = list(pool.map(lambda item: _unpack(plan, *item), packages.items()))
    unpacked = dict(zip(packages, members, strict=True))
    content: Content = {}
    for members_of_one in members:
        _add_taken(content, plan.takes, members_of_one.items())
    _add_taken(content, plan.npm_takes, _module_files(plan, modules or {}, compiled or {}))
    _add_taken(content, plan.archive_takes, _archive_files(plan, archives or {}))
    takes = [*plan.takes, *plan.npm_takes, *plan.archive_takes]
    for origin, wheel in wheels.items():
        takes += _add_wheel(content, plan, origin, wheel)
    if missing := [take.source for take in takes if not _taken(take, content)]:
        raise UsageError(
            f"No package of the lock has {', '.join(missing)}, which the recipe's stage table takes."
        )
    if plan.certificates:
        content[plan.certificates.destination] = _certificates(plan.certificates, unpacked)
    for path, script in plan.scripts.items():
        _add(content, path, File(script.encode(), executable=True))
    for path, text in plan.files.items():
        _add(content, path, File(text.encode()))
    for path, destination in plan.links.items():
        _add(content, path, Link(destination))
    for path in plan.folders:
        content.setdefault(path, Folder())
    available = {posixpath.basename(n): node for m in members for n, node in m.items() if plan.is_library(n)}
    libraries.add(content, available, plan.libraries, arch, below)
    _add_licences(content, unpacked)
    return _upper(content, below)


def _add_taken(content: Content, takes: Sequence[Take], members: Iterable[tuple[str, Node]]) -> None:
    for name, node in members:
        for take in takes:
            if target := take.target(name):
                _add(content, target, node)


def _add_wheel(content: Content, plan: Plan, origin: str, wheel: Path) -> tuple[Take, ...]:
    """Adds a wheel's files; returns the takes for this wheel, of which a recipe may have some.

    Programs that are taken stay executable; scripts are started by their interpreter's name, if at all.
    """
    takes = plan.wheel_takes.get(origin.partition(" ")[0], ())
    for name, file in whl.nodes(wheel, origin):
        if not takes and whl.is_used(name):
            _add(content, f"{plan.wheels}/{name}", replace(file, executable=False))
        for take in takes:
            if target := take.target(name):
                is_program = file.executable and file.data.startswith(elf.MAGIC)
                _add(content, target, replace(file, executable=is_program))
    return takes


def _module_files(
    plan: Plan, modules: Mapping[str, tuple[Path, Sequence[str]]], compiled: Mapping[str, File]
) -> Iterator[tuple[str, File]]:
    """The files of npm packages that the plan takes, by place, and those that were compiled for them."""
    for origin, (path, places) in modules.items():

        def wanted(name: str, places: Sequence[str] = places) -> bool:
            return any(plan.npm_targets(f"{place}/{name}") for place in places)

        for name, file in tgz.nodes(path, origin, wanted):
            yield from ((f"{place}/{name}", file) for place in places)
    yield from compiled.items()


def _archive_files(plan: Plan, archives: Mapping[str, tuple[Path, int]]) -> Iterator[tuple[str, Node]]:
    """The files of archives that the plan takes, by the archive's name and theirs."""
    for origin, (path, strip) in archives.items():
        top = origin.partition(" ")[0]

        def wanted(name: str, top: str = top) -> bool:
            return bool(plan.archive_targets(f"{top}/{name}"))

        for name, node in archive.nodes(path, origin, strip, wanted):
            yield f"{top}/{name}", node


def _upper(content: Content, below: Mapping[str, Node]) -> Content:
    """The nodes that are not in the layers below; a different one there is a mistake of the recipe."""
    if changed := [path for path, node in content.items() if below.get(path, node) != node]:
        raise UsageError(f"Two components of the recipe put different files at {min(changed)}.")
    return {path: node for path, node in content.items() if path not in below}


def _certificates(take: Take, unpacked: Mapping[str, Mapping[str, Node]]) -> File:
    """One PEM file of all certificates, in the order of their paths."""
    found = sorted(
        (name, node)
        for members in unpacked.values()
        for name, node in members.items()
        if name.endswith(".crt") and take.target(name) and isinstance(node, File)
    )
    if not found:
        raise UsageError(f"No package of the lock has certificates below {take.source}.")
    return File(b"".join(node.data.rstrip() + b"\n" for _, node in found), origin=found[0][1].origin)


def _unpack(plan: Plan, origin: str, path: Path) -> dict[str, Node]:
    return dict(sorted(deb.nodes(path, origin, plan.wants)))


def _taken(take: Take, content: Content) -> bool:
    return take.destination in content or any(path.startswith(take.destination + "/") for path in content)


def _add(content: Content, path: str, node: Node) -> None:
    """Adds a node; two different ones for one path are a mistake of the recipe."""
    if content.setdefault(path, node) != node:
        raise UsageError(f"The recipe's stage table puts two different files at {path}.")


def _add_licences(content: Content, unpacked: Mapping[str, Mapping[str, Node]]) -> None:
    """The copyright file of every package that something was taken from (Debian policy 12.5)."""
    used = {file.origin for _, file in files(content)}
    for origin, members in unpacked.items():
        package = origin.partition(" ")[0]
        if origin not in used:
            continue
        for name in (f"usr/share/doc/{package}/copyright", f"usr/share/doc/{package}"):
            if (node := members.get(name)) is not None:
                target = name.removeprefix("usr/")
                if isinstance(node, Link):
                    shared = f"usr/share/doc/{posixpath.basename(node.target)}/copyright"
                    donor = next((m[shared] for m in unpacked.values() if shared in m), None)
                    if isinstance(donor, File):
                        content[f"share/doc/{package}/copyright"] = donor
                else:
                    content[target] = node

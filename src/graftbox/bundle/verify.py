"""Verifies a built bundle: every digest, and that nothing in it can reach outside of /openhands to start.

Reads the layers in the store; executes nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle import elf, estargz, layers, libraries, rules
from graftbox.bundle.compression import opened
from graftbox.bundle.content import ROOT, Content, File, Folder, Link, files, resolve, with_parents
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.errors import FormatError, NotFoundError, VerificationError
from graftbox.store import CHUNK, Store, digest_of, digest_of_file


@dataclass(frozen=True)
class Report:
    """What was checked, as counts, and what is wrong, one line each."""

    layers: int
    files: int
    programs: int
    libraries: int
    scripts: int
    problems: tuple[str, ...] = ()


def verify(manifest: BundleManifest, store: Store) -> Report:
    """Checks the whole bundle; without problems it is whole and self-contained."""
    content: Content = {}
    damage: list[str] = []
    for layer in manifest.layers:
        try:
            found = read(layer, store)
            damage += [
                f"{path} is in two layers, {layer.name} and one below" for path in _twice(content, found)
            ]
            content.update(found)
        except (FormatError, NotFoundError, VerificationError) as error:
            damage.append(str(error))
    programs = [elf.parse(file.data, path) for path, file in files(content) if elf.is_elf(file.data)]
    return Report(
        layers=len(manifest.layers),
        files=sum(not isinstance(node, Folder) for node in content.values()),
        programs=sum(facts.interpreter is not None for facts in programs),
        libraries=sum(facts.interpreter is None for facts in programs),
        scripts=sum(file.data.startswith(b"#!") for _, file in files(content) if file.executable),
        problems=tuple(damage or problems(content, manifest.arch)),  # half a bundle is not self-contained
    )


def _twice(content: Content, upper: Content) -> list[str]:
    """The files of an upper layer that are in a lower one too."""
    return [path for path, node in upper.items() if path in content and not isinstance(node, Folder)]


def read(layer: Layer, store: Store) -> Content:
    """The content of one layer, after checking both its digests and that the tar is as we write it."""
    blob = store.blob_path(layer.digest)
    again = f"Delete {blob} and run `graftbox bundle build`."
    if not blob.is_file():
        raise NotFoundError(f"The layer {layer.digest} is not in the store. Run `graftbox bundle build`.")
    if (actual := digest_of_file(blob)) != layer.digest:
        raise VerificationError(f"The layer {layer.name} is {actual} instead of {layer.digest}. {again}")
    try:
        sha = hashlib.sha256()
        with opened(blob, layer.compression) as stream:
            while chunk := stream.read(CHUNK):
                sha.update(chunk)
        if f"sha256:{sha.hexdigest()}" != layer.diff_id:
            raise VerificationError(
                f"The layer {layer.name} unpacks to other bytes than its diff ID says. {again}"
            )
        return _once(_members(blob, layer))
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise FormatError(f"The layer {layer.name} is damaged: {error}. {again}") from error


def _once(members: Iterator[tuple[str, File | Link | Folder]]) -> Content:
    """The members by path; layers may have no path twice (OCI image-spec, layer.md)."""
    content: Content = {}
    for path, node in members:
        if path in content:
            raise ValueError(f"{path} is in it twice")
        content[path] = node
    return content


def _members(blob: Path, layer: Layer) -> Iterator[tuple[str, File | Link | Folder]]:
    with opened(blob, layer.compression) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.uid or member.gid or member.uname or member.gname or member.mtime != layers.MTIME:
                raise ValueError(f"{member.name} has an owner or a time of its own")
            if layer.toc and member.name in (estargz.LANDMARK, estargz.TOC):
                table = archive.extractfile(member)
                if member.name == estargz.TOC and (table is None or digest_of(table.read()) != layer.toc):
                    raise ValueError("its table of contents is another one")
                continue
            top, _, path = member.name.partition("/")
            if top != layers.PREFIX or ".." in path.split("/"):
                raise ValueError(f"{member.name} is outside of {ROOT}")
            if member.isdir() and member.mode == 0o755:
                if path:
                    yield path, Folder()
            elif member.issym():
                yield path, Link(member.linkname)
            elif member.isreg() and member.mode in (0o755, 0o644):
                data = archive.extractfile(member)
                assert data is not None
                yield path, File(data.read(), member.mode == 0o755)
            else:
                raise ValueError(f"{member.name} has mode {member.mode:o} or is no file, folder or link")


def problems(content: Content, arch: str) -> list[str]:
    """What in the content would not work, or not only with the bundle's own files; sorted by path."""
    found: list[str] = []
    content = dict(with_parents(content))
    for path, node in sorted(content.items()):
        if isinstance(node, Link) and resolve(content, path) is None:
            found.append(f"{path} leads to {node.target}, which is not in the bundle")
        elif isinstance(node, File):
            found += [f"{path} {problem}" for problem in _file_problems(content, path, node, arch)]
    return found


def _file_problems(content: Content, path: str, file: File, arch: str) -> Iterator[str]:
    if elf.is_elf(file.data):
        yield from _elf_problems(content, path, file, arch)
    elif file.executable and file.data.startswith(b"#!"):
        words = file.data.splitlines()[0][2:].decode(errors="replace").split()
        interpreter = words[0] if words else ""
        if not interpreter.startswith(ROOT + "/"):
            yield f"is a script for {interpreter or 'nothing'}"
        elif resolve(content, interpreter.removeprefix(ROOT + "/")) is None:
            yield f"is a script for {interpreter}, which is not in the bundle"


def _elf_problems(content: Content, path: str, file: File, arch: str) -> Iterator[str]:
    facts = elf.parse(file.data, path)
    if facts.arch != arch:
        yield f"is made for {facts.arch}"
    if facts.interpreter is not None and facts.interpreter.text != rules.INTERPRETER:
        yield f"starts through {facts.interpreter.text}"
    if path == "lib/ld.so" and re.search(rules.LD_VARIABLES[arch].pattern, file.data, re.DOTALL):
        yield "obeys LD_ variables"
    for search in facts.search_paths:
        if foreign := [name for name in search.directories if not name.startswith("$ORIGIN")]:
            yield f"searches libraries in {', '.join(foreign)}"
    for name in facts.needed:
        # The loader itself is known by its soname once it runs; its default folders lead to lib/ only.
        inside = name == rules.LOADERS[arch] or resolve(content, f"lib/{name}") is not None
        if not inside and not libraries.found_beside(path, facts, name, content):
            yield f"needs {name}, which is not in the bundle"
    is_static = posixpath.dirname(path) == "bin"
    if not is_static and f"\0/usr/lib/{rules.TRIPLETS[arch]}".encode() in file.data:
        yield "looks for files in the base image's library folder"

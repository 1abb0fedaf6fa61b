"""What kinds of files an image holds, learnt from its layers in one pass or from its unpacked folder."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graftbox.image.blob import CHUNK, Blob
from graftbox.image.layer import damage_in_words, members
from graftbox.image.tree import OPAQUE, WHITEOUT

_LIBC = re.compile(r"libc\.so\.6|libc-2\.\d+\.so")
_GLIBC_BANNER = re.compile(rb"GNU C Library .{0,80}?version (\d+\.\d+)", re.DOTALL)
_MUSL = re.compile(r"ld-musl-\w+\.so\.1")
_MUSL_VERSION = re.compile(rb"\0(1\.[12]\.\d+)(?:_git\S*)?\0")
_LIBRARY_FOLDERS = re.compile(r"(?:usr/)?lib(?:32|64)?(?:/[a-z0-9_]+-linux-gnu[a-z0-9]*)?")
MAX_LINKS = 40

SHELLS = ("bin/bash", "bin/sh", "bin/ash", "bin/dash", "bin/busybox")
CA_STORES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)
PACKAGE_MANAGERS = {
    "apt": ("usr/bin/apt-get", "usr/bin/apt"),
    "apk": ("sbin/apk", "usr/bin/apk"),
    "dnf": ("usr/bin/dnf", "usr/bin/microdnf", "usr/bin/dnf5"),
    "yum": ("usr/bin/yum",),
    "zypper": ("usr/bin/zypper",),
    "pacman": ("usr/bin/pacman",),
    "nix": ("nix/store",),
}


@dataclass
class Contents:
    """Paths of an image (without a leading slash), the targets of its links, and a few files' facts."""

    paths: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    size: int = 0
    """Bytes of all files, in layers counted as often as they were written."""
    bytes_read: int = 0
    """Compressed bytes of layers that were read for this."""
    libc_versions: dict[str, str] = field(default_factory=dict)
    small: dict[str, bytes] = field(default_factory=dict)

    def find(self, path: str) -> str | None:
        """The path that ``path`` leads to through links, or None if it leads nowhere."""
        pending, real = [part for part in path.split("/") if part][::-1], ""
        links = 0
        while pending:
            part = pending.pop()
            if part in {".", ".."}:
                real = posixpath.dirname(real) if part == ".." else real
                continue
            real = posixpath.join(real, part)
            if real in self.links:
                links += 1
                target = self.links[real]
                if links > MAX_LINKS:
                    return None
                real = "" if target.startswith("/") else posixpath.dirname(real)
                pending += [piece for piece in target.split("/") if piece][::-1]
        return real if real in self.paths else None

    def first(self, paths: Sequence[str]) -> str | None:
        """The first of these paths that exists, with a leading slash, as it was asked for."""
        return next((f"/{path}" for path in paths if self.find(path)), None)

    def libc(self) -> tuple[str, str] | None:
        """The C library, ``("glibc", "2.36")`` or ``("musl", "")``; None for static images."""
        for path in sorted(self.paths):
            folder, name = posixpath.split(path)
            if not _LIBRARY_FOLDERS.fullmatch(folder):
                continue
            if _LIBC.fullmatch(name):
                return "glibc", self.libc_versions.get(self.find(path) or path, "")
            if _MUSL.fullmatch(name):
                return "musl", self.libc_versions.get(self.find(path) or path, "")
        return None

    def _note(self, path: str, chunks: Iterator[bytes]) -> None:
        """Reads the few files whose contents matter."""
        name = posixpath.basename(path)
        if path in {"etc/passwd", "etc/os-release", "usr/lib/os-release"}:
            self.small[path] = next(chunks, b"")
        elif _LIBC.fullmatch(name) or _MUSL.fullmatch(name) or name == "libc.musl-x86_64.so.1":
            data = b"".join(chunks)
            pattern = _GLIBC_BANNER if _LIBC.fullmatch(name) else _MUSL_VERSION
            if found := pattern.search(data):
                self.libc_versions[path] = found[1].decode()

    def _remove(self, path: str, itself: bool = True) -> None:
        below = f"{path}/" if path else ""
        gone = {p for p in self.paths if p.startswith(below) or (itself and p == path)}
        self.paths -= gone
        for name in gone:
            self.links.pop(name, None)
            self.small.pop(name, None)
            self.libc_versions.pop(name, None)


def of_layers(layers: Sequence[Blob]) -> Contents:
    """Reads the layers as streams, lowest first; nothing is kept but names."""
    contents = Contents()
    for layer in layers:
        contents.bytes_read += layer.descriptor.size
        fresh: set[str] = set()
        with damage_in_words(layer):
            for tar, member in members(layer):
                _add(contents, tar, member, fresh)
        contents.paths |= fresh
    return contents


def _add(contents: Contents, tar: tarfile.TarFile, member: tarfile.TarInfo, fresh: set[str]) -> None:
    path = posixpath.normpath("/" + member.name).lstrip("/")
    folder, name = posixpath.split(path)
    if name == OPAQUE:
        contents._remove(folder, itself=False)
        return
    if name.startswith(WHITEOUT):
        contents._remove(posixpath.join(folder, name.removeprefix(WHITEOUT)))
        return
    contents.links.pop(path, None)
    fresh.add(path)
    while folder and folder not in fresh:
        fresh.add(folder)
        folder = posixpath.dirname(folder)
    if member.issym():
        contents.links[path] = member.linkname
    elif member.islnk():
        contents.links[path] = "/" + member.linkname.lstrip("/")
    elif member.isreg():
        contents.size += member.size
        stream = tar.extractfile(member)
        assert stream is not None
        contents._note(path, iter(lambda: stream.read(CHUNK), b""))


def of_folder(root: Path) -> Contents:
    """Reads an unpacked image."""
    contents = Contents()
    for folder, folders, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        for name in folders + files:
            path = posixpath.normpath(posixpath.join(inside, name))
            full = Path(folder) / name
            contents.paths.add(path)
            if full.is_symlink():
                contents.links[path] = str(full.readlink())
            elif name in files and full.is_file():
                contents.size += full.lstat().st_size
                contents._note(path, _chunks(full))
    return contents


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk

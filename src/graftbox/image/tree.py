"""A folder that layers are applied to, with their whiteouts, links and owners (image-spec, layer.md)."""

# An image has 100,000 files; the os functions on strings take half the time of Path's methods.
# ruff: noqa: PTH101, PTH102, PTH108, PTH115, PTH208, PTH211

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from graftbox.errors import FormatError
from graftbox.image.blob import CHUNK, Blob
from graftbox.image.layer import damage_in_words, members

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
MAX_LINKS = 40


class Tree:
    """A folder that layers are applied to, one after the other.

    Nothing outside the folder is ever touched: links in paths are followed inside it, as a process
    whose root it is would. Ownership is kept for root; device files need root too.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._privileged = os.geteuid() == 0
        self._folders: dict[str, str] = {}
        self._sealed_modes: dict[str, tuple[int, float]] = {}
        self._fresh: set[str] = set()

    def apply(self, layer: Blob) -> None:
        """Adds a layer: its files, and the removals that its whiteouts stand for."""
        self._fresh = set()
        with damage_in_words(layer):
            for tar, member in members(layer):
                self._apply(tar, member)

    def _apply(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._clean(member.name)
        folder, name = posixpath.split(path)
        if name == OPAQUE:
            self._empty(self._folder(folder))
        elif name.startswith(WHITEOUT):
            gone = name.removeprefix(WHITEOUT)
            if gone in {"", ".", ".."}:
                raise FormatError(f"The layer removes {member.name!r}, which names no file; do not trust it.")
            if not gone.startswith(WHITEOUT):
                self._remove(posixpath.join(self._folder(folder), gone))
        elif path:
            place = posixpath.join(self._folder(folder), name)
            self._make(tar, member, place)
            self._fresh.add(place)
        else:
            self._sealed_modes[self.root] = (member.mode & 0o7777, member.mtime)
            self._own(self.root, member)

    def seal(self) -> None:
        """Gives folders their own modes and times, which must wait until they are full."""
        for path, (mode, mtime) in sorted(self._sealed_modes.items(), reverse=True):
            # Without root's powers, a folder that its owner may not enter could never be removed again.
            os.chmod(path, mode if self._privileged else mode | 0o700)
            os.utime(path, (mtime, mtime))

    def _clean(self, name: str) -> str:
        path = posixpath.normpath("/" + name).lstrip("/")
        if ".." in name.split("/") and posixpath.normpath(name).startswith(".."):
            raise FormatError(
                f"The layer holds a path that leaves the image: {name!r}. Do not trust this image."
            )
        return path

    def _folder(self, path: str) -> str:
        """The real folder for a path inside the image, made if missing."""
        if path in self._folders:
            return self._folders[path]
        real, links = self.root, 0
        pending = [part for part in path.split("/") if part][::-1]
        while pending:
            part = pending.pop()
            if part == "..":
                real = posixpath.dirname(real) if real != self.root else real
                continue
            if part == ".":
                continue
            here = posixpath.join(real, part)
            try:
                mode = os.lstat(here).st_mode
            except FileNotFoundError:
                real = self._new_folder(here)
                continue
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    raise FormatError(f"The image's path {path!r} goes through a loop of links.")
                target = os.readlink(here)
                real = self.root if target.startswith("/") else real
                pending += [piece for piece in target.split("/") if piece][::-1]
            elif stat.S_ISDIR(mode):
                real = here
            else:
                os.unlink(here)
                real = self._new_folder(here)
        self._folders[path] = real
        return real

    def _new_folder(self, path: str) -> str:
        """A folder that the layer fills without describing it."""
        os.mkdir(path, 0o700)
        self._sealed_modes[path] = (0o755, 0.0)
        return path

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> None:
        if member.isdir():
            self._make_folder(member, place)
            return
        if member.islnk():
            folder, name = posixpath.split(self._clean(member.linkname))
            target = posixpath.join(self._folder(folder), name)
            if target != place:
                self._remove(place)
                try:
                    os.link(target, place, follow_symlinks=False)
                except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                    raise FormatError(
                        f"The layer links {member.name!r} to {member.linkname!r}, which is no file in it."
                    ) from error
            return
        self._remove(place)
        if member.issym():
            os.symlink(member.linkname, place)
        elif member.isreg():
            self._write(tar, member, place)
        elif not self._make_special(member, place):
            return
        self._own(place, member)
        if not member.issym():
            os.chmod(place, member.mode & 0o7777)
        os.utime(place, (member.mtime, member.mtime), follow_symlinks=False)

    def _make_folder(self, member: tarfile.TarInfo, place: str) -> None:
        try:
            is_folder = stat.S_ISDIR(os.lstat(place).st_mode)
        except FileNotFoundError:
            is_folder = False
        if not is_folder:
            self._remove(place)
            os.mkdir(place, 0o700)
        self._own(place, member)
        self._sealed_modes[place] = (member.mode & 0o7777, member.mtime)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> None:
        content = tar.extractfile(member)
        assert content is not None
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            while chunk := content.read(CHUNK):
                stream.write(chunk)

    def _make_special(self, member: tarfile.TarInfo, place: str) -> bool:
        if member.isfifo():
            os.mkfifo(place, 0o600)
            return True
        if not self._privileged or not (member.ischr() or member.isblk()):
            return False
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        try:
            os.mknod(place, kind | 0o600, os.makedev(member.devmajor, member.devminor))
        except PermissionError:
            return False
        return True

    def _own(self, place: str, member: tarfile.TarInfo) -> None:
        if self._privileged:
            try:
                os.chown(place, member.uid, member.gid, follow_symlinks=False)
            except OSError as error:
                # In a user namespace only some ids exist.
                if error.errno not in {errno.EPERM, errno.EINVAL}:
                    raise
        for key, value in _xattrs(member):
            with contextlib.suppress(OSError):
                os.setxattr(place, key, value, follow_symlinks=False)

    def _remove(self, place: str) -> None:
        try:
            os.unlink(place)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            shutil.rmtree(place)
            self._forget(place)
        # A link that went may have been part of a remembered path.
        self._folders.clear()

    def _forget(self, place: str) -> None:
        below = f"{place}/"
        gone = [path for path in self._sealed_modes if path == place or path.startswith(below)]
        for path in gone:
            del self._sealed_modes[path]

    def _empty(self, folder: str) -> None:
        """Removes what lower layers left in a folder, and keeps what this layer has put there."""
        for name in os.listdir(folder):
            path = posixpath.join(folder, name)
            if path not in self._fresh and not any(new.startswith(f"{path}/") for new in self._fresh):
                self._remove(path)
            elif stat.S_ISDIR(os.lstat(path).st_mode):
                self._empty(path)


def _xattrs(member: tarfile.TarInfo) -> Iterator[tuple[str, bytes]]:
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.xattr."):
            yield key.removeprefix("SCHILY.xattr."), value.encode("utf-8", "surrogateescape")

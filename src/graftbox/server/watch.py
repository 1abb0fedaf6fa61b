"""What changes below a folder, as the kernel reports it: inotify(7), without a library, without polling."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftbox.server.entries import named
from graftbox.server.identity import Identity
from graftbox.server.request import HTTPError

MAX_FOLDERS = 8192
"""Folders watched by one stream."""
_MODIFY, _ATTRIB, _CLOSE_WRITE, _FROM, _TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _OVERFLOW, _IGNORED, _ISDIR = 0x400, 0x4000, 0x8000, 0x40000000
_DONT_FOLLOW, _EXCL_UNLINK = 0x2000000, 0x4000000
_WANTED = _MODIFY | _ATTRIB | _CLOSE_WRITE | _FROM | _TO | _CREATE | _DELETE | _DELETE_SELF
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_HEADER = struct.Struct("iIII")
_BUFFER = 64 * 1024
_NAMES = ((_CREATE, "created"), (_DELETE, "deleted"), (_CLOSE_WRITE, "written"), (_MODIFY, "modified"))

Event = dict[str, Any]


@dataclass(frozen=True)
class Notice:
    """One event as the kernel gives it; ``cookie`` ties the two ends of a move together."""

    watch: int
    mask: int
    cookie: int
    name: str


class Watch:
    """Changes below ``root``, a folder or a file; with ``recursive`` in all folders, new ones too.

    A client that does not keep up loses events in the kernel's queue, and is told so by an ``overflow``.
    """

    def __init__(self, root: Path, recursive: bool, identity: Identity) -> None:
        self.root, self.recursive, self.identity = root, recursive, identity
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self.libc.inotify_init1(_FLAGS)
        if self.handle < 0:
            raise _failure(root)
        self.folders: dict[int, Path] = {}

    async def open(self) -> None:
        """Begin to watch; raises `OSError`, or `HTTPError` where there are more folders than can be."""
        await self.identity.call(self._add, self.root)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    async def events(self) -> AsyncGenerator[list[Event]]:
        """What happened, in batches, until ``root`` itself is gone."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.handle, ready.set)
        try:
            while self.folders:
                await ready.wait()
                ready.clear()
                with contextlib.suppress(BlockingIOError):
                    notices = _parsed(os.read(self.handle, _BUFFER))
                    if batch := await self.identity.call(self._told, notices):
                        yield batch
                    # More may wait than one buffer holds.
                    ready.set()
        finally:
            loop.remove_reader(self.handle)

    def _add(self, path: Path) -> list[Event]:
        """Watch ``path`` and, if asked for, all below it; what is there, as events. Blocking."""
        mask = _WANTED | _EXCL_UNLINK | (_DONT_FOLLOW if path != self.root else 0)
        number = self.libc.inotify_add_watch(self.handle, os.fsencode(path), mask)
        if number < 0:
            raise _failure(path)
        self.folders[number] = path
        if len(self.folders) > MAX_FOLDERS:
            self._forget(path)
            raise HTTPError(
                507, f"There are more than {MAX_FOLDERS} folders below {self.root}. Watch a part of them."
            )
        found: list[Event] = []
        if self.recursive and path.is_dir():
            with os.scandir(path) as entries:
                names = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
            for name, is_folder in names:
                found.append(self._event("created", path / name, is_folder))
                if is_folder:
                    found += self._tried(path / name)
        return found

    def _tried(self, path: Path) -> list[Event]:
        """As `_add`; a folder that may not be read or is gone again is none of ours."""
        try:
            return self._add(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise
            return []

    def _told(self, notices: list[Notice]) -> list[Event]:
        events: list[Event] = []
        leaving: dict[int, tuple[Path, bool]] = {}
        for notice in notices:
            if notice.mask & _OVERFLOW:
                events.append({"type": "overflow"})
                continue
            folder = self.folders.get(notice.watch)
            if folder is None:
                continue
            if notice.mask & _IGNORED:
                del self.folders[notice.watch]
                continue
            if not notice.name and folder != self.root:
                # The folder above reports it too.
                continue
            path, is_folder = folder / notice.name, bool(notice.mask & _ISDIR)
            if notice.mask & _FROM:
                leaving[notice.cookie] = path, is_folder
            elif notice.mask & _TO:
                events += self._arrived(leaving.pop(notice.cookie, None), path, is_folder)
            else:
                events += self._changed(notice.mask, path, is_folder)
        for path, is_folder in leaving.values():
            self._forget(path)
            events.append(self._event("deleted", path, is_folder))
        return events

    def _arrived(self, source: tuple[Path, bool] | None, path: Path, is_folder: bool) -> list[Event]:
        if source is None:
            return self._changed(_CREATE, path, is_folder)
        for number, each in self.folders.items():
            if each == source[0] or source[0] in each.parents:
                self.folders[number] = path / each.relative_to(source[0])
        moved = self._event("moved", source[0], is_folder)
        return [moved | named(path.relative_to(self.root), "to")]

    def _changed(self, mask: int, path: Path, is_folder: bool) -> list[Event]:
        if mask & _DELETE_SELF:
            return [self._event("deleted", path, is_folder)] if path == self.root else []
        kind = next((name for bit, name in _NAMES if mask & bit), "attributes")
        events = [self._event(kind, path, is_folder)]
        if mask & _CREATE and is_folder and self.recursive:
            try:
                events += self._tried(path)
            except HTTPError as error:
                events.append({"type": "overflow", "detail": error.detail})
        return events

    def _forget(self, path: Path) -> None:
        for number, each in list(self.folders.items()):
            if each == path or path in each.parents:
                self.libc.inotify_rm_watch(self.handle, number)
                del self.folders[number]

    def _event(self, kind: str, path: Path, is_folder: bool) -> Event:
        return {"type": kind, **named(path.relative_to(self.root)), "folder": is_folder}


def _parsed(data: bytes) -> list[Notice]:
    notices: list[Notice] = []
    position = 0
    while position < len(data):
        watch, mask, cookie, length = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        name = os.fsdecode(data[position : position + length].rstrip(b"\0"))
        position += length
        notice = Notice(watch, mask, cookie, name)
        # Programs write in many small pieces: once is enough until something else happens.
        if not (mask & _MODIFY and notices and notices[-1] == notice):
            notices.append(notice)
    return notices


def _failure(path: Path) -> OSError | HTTPError:
    number = ctypes.get_errno()
    if number in (errno.ENOSPC, errno.EMFILE):
        limit = "max_user_watches" if number == errno.ENOSPC else "max_user_instances"
        return HTTPError(
            507, f"The kernel watches no more: fs.inotify.{limit} is reached. Watch fewer folders."
        )
    return OSError(number, os.strerror(number), str(path))

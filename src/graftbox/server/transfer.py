"""Files between the disk and HTTP: in pieces, as the sandbox's user, with nothing half written."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from graftbox.errors import UsageError
from graftbox.server.disk import Draft, open_regular
from graftbox.server.entries import Found, entry, etag
from graftbox.server.identity import Identity
from graftbox.server.request import HTTPError

PIECE = 256 * 1024
"""Bytes that are read, sent or written at once."""


@dataclass(frozen=True)
class Span:
    """Bytes ``first`` to ``last``, both included."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


def span(header: str | None, size: int) -> Span | None:
    """The part that a ``Range`` header asks for; None: all of it, also for what is no single range.

    Raises a 416 `HTTPError` for one beyond the end (RFC 9110, section 14.2).
    """
    if header is None or not (match := re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", header)):
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        begin, end = max(size - int(last), 0), size - 1
        satisfiable = int(last) > 0 and size > 0
    else:
        begin, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < begin:
            return None
        satisfiable = begin < size
    if not satisfiable:
        total = f"bytes */{size}".encode()
        raise HTTPError(416, f"The range is beyond the file's {size} bytes.", ((b"content-range", total),))
    return Span(begin, end)


def matches(header: str, tag: str | None) -> bool:
    """Whether ``If-Match`` or ``If-None-Match`` names ``tag``; None: there is no file."""
    if tag is None:
        return False
    return header.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in header.split(",")]


async def opened(path: Path, identity: Identity) -> tuple[BinaryIO, os.stat_result]:
    """The file, opened as the user; raises `OSError`, `SpecialFileError`."""
    file = await identity.call(open_regular, path)
    return file, os.fstat(file.fileno())


async def pieces(file: BinaryIO, part: Span | None, identity: Identity) -> AsyncGenerator[bytes]:
    """``part`` of ``file``, which is closed at the end; a file that shrinks meanwhile ends the connection.

    None: all there is, for files that don't know their size. Yields nothing first, so that one who has taken
    that can rely on the file being closed.
    """
    with file:
        yield b""
        if part is None:
            while piece := await identity.call(file.read, PIECE):
                yield piece
            return
        if part.first:
            file.seek(part.first)
        left = part.size
        while left:
            piece = await identity.call(file.read, min(PIECE, left))
            if not piece:
                raise UsageError("The file became shorter while it was sent.")
            left -= len(piece)
            yield piece


async def gathered(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces worth a trip to another thread."""
    parts: list[bytes] = []
    size = 0
    async for part in stream:
        parts.append(part)
        size += len(part)
        if size >= PIECE:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


@dataclass(frozen=True)
class Terms:
    """On which a file is written: HTTP's conditions, its mode (None: as it is or as the umask has it).

    ``replacing``: one that may not be written, in a folder that may, gives way to a new one.
    """

    if_match: str | None = None
    if_none_match: str | None = None
    mode: int | None = None
    parents: bool = True
    replacing: bool = False

    def check(self, path: Path) -> None:
        """Raises a 412 `HTTPError` where the file is not what the client thinks."""
        try:
            now = etag(path.stat())
        except OSError:
            now = None
        if self.if_match is not None and not matches(self.if_match, now):
            raise HTTPError(412, f"The file is not the expected one; its ETag is {now}.")
        if self.if_none_match is not None and matches(self.if_none_match, now):
            raise HTTPError(412, f"There is such a file already; its ETag is {now}.")


async def received(
    stream: AsyncIterator[bytes], path: Path, terms: Terms, identity: Identity, size: int | None = None
) -> tuple[bool, Found]:
    """Write the file from ``stream``, of ``size`` bytes if known; whether it is new, and what is there now.

    Raises `OSError`, `SpecialFileError`, and a 412 `HTTPError`.
    """
    draft = await identity.call(_draft, path, terms, size)
    new = draft.existing is None
    try:
        async for piece in gathered(stream):
            await identity.call(draft.write, piece)
        return new, await identity.call(_commit, draft, path, terms)
    except BaseException:
        # To its end, even while the request is being cancelled.
        await asyncio.shield(identity.call(draft.discard))
        raise


def _draft(path: Path, terms: Terms, size: int | None) -> Draft:
    terms.check(path)
    if terms.parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = Draft(path, terms.replacing)
    try:
        if size:
            room(draft.target.parent, size)
    except BaseException:
        draft.discard()
        raise
    return draft


def room(folder: Path, size: int) -> None:
    """Raises the error of a full disk before it is one: ``size`` bytes are to come."""
    found = os.statvfs(folder)
    # Some file systems do not count their blocks.
    if found.f_blocks and found.f_bavail * found.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _commit(draft: Draft, path: Path, terms: Terms) -> Found:
    terms.check(draft.target)
    draft.commit(terms.mode, exclusive=(terms.if_none_match or "").strip() == "*")
    return entry(path, follow=True)

"""Sends one blob to a repository: in one request, or in chunks that go on where a break left them.

Sources: distribution-spec 1.1, "Pushing a blob monolithically" and "Pushing a blob in chunks".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from graftbox.errors import TransportError, VerificationError
from graftbox.image.blob import Blob
from graftbox.image.connection import Connection
from graftbox.image.pool import Response
from graftbox.image.retry import AGAIN, BrokenError

CHUNK = 16 << 20
"""Bytes of one PATCH: small enough for proxies in front of registries, large enough to cost nothing."""
SMALLEST = 1 << 20
"""Bytes; a registry that finds a PATCH of this size too large is not tried with smaller ones."""
TOO_LARGE = frozenset({411, 413, 416})
"""Answers to a whole blob in one request that ask for smaller ones."""
BAD_BYTES = "DIGEST_INVALID"

_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


def upload(connection: Connection, blob: Blob, location: str | None = None) -> None:
    """Sends the blob; ``location`` is an upload that the registry has opened already.

    A break, an overloaded registry and bytes that were damaged on the way are got over, as often as the
    host's patience allows. Raises what the blob's own source raises, or `TransportError`.
    """
    attempt, damaged = 0, False
    while True:
        attempt += 1
        session = _Session(connection, blob, location)
        try:
            session.run(in_chunks=attempt > 1 and session.large)
            return
        except BrokenError:
            # The answer may be what broke, after all bytes had arrived.
            if _is_there(connection, blob):
                return
            if not connection.host.pause(attempt):
                session.abandon()
                raise
        except _RefusedError as refused:
            session.abandon()
            if not refused.curable or not connection.host.pause(attempt, refused.response):
                connection.check(refused.response, f"write {blob.digest} to {connection.repository}")
                raise TransportError(
                    f"{connection.host.name} answered {refused.response.status_code} to an upload."
                ) from None
        except VerificationError:
            # Damaged on its way from the source, perhaps: once more.
            session.abandon()
            if damaged or blob.path is not None:
                raise
            damaged = True
        except BaseException:
            # The blob's source failed, or the user has interrupted: nothing half-sent stays.
            session.abandon()
            raise
        location = None


def _is_there(connection: Connection, blob: Blob) -> bool:
    url = f"{connection.base}/blobs/{blob.digest}"
    return connection.request("HEAD", url).status_code == 200


class _RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, response: Response) -> None:
        self.response = response
        code = response.status_code
        # 404: the registry has forgotten the upload. Damaged bytes were damaged on the way, because the
        # stream that they come from is verified.
        damaged = code == 400 and BAD_BYTES in response.text
        self.curable = code in AGAIN or code in {404, *TOO_LARGE} or damaged


class _Session:
    """One upload session of a registry: a place that changes with each answer, and an offset."""

    def __init__(self, connection: Connection, blob: Blob, location: str | None) -> None:
        self._connection, self._blob = connection, blob
        self._location, self._offset = location, 0
        self._chunk, self._smallest = CHUNK, SMALLEST
        self._reader = _Reader(blob)

    @property
    def large(self) -> bool:
        return self._blob.descriptor.size > CHUNK

    def run(self, in_chunks: bool) -> None:
        if self._location is None:
            self._open()
        if not in_chunks:
            if self._whole():
                return
            self.abandon()
            self._open()
        self._rest()

    def _open(self) -> None:
        response = self._connection.request("POST", f"{self._connection.base}/blobs/uploads/", content=b"")
        self._connection.check(response, f"write to {self._connection.repository}")
        self._moved(response)
        self._offset = 0
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        least = int(smallest) if smallest.isdigit() else 0
        self._chunk, self._smallest = max(CHUNK, least), max(SMALLEST, least)

    def _moved(self, response: Response) -> None:
        self._location = self._connection.host.locate(response)

    def _place(self, commit: bool = False) -> str:
        assert self._location is not None
        if not commit:
            return self._location
        return f"{self._location}{'&' if '?' in self._location else '?'}digest={self._blob.digest}"

    def _whole(self) -> bool:
        """The blob as one request's body; False if the registry takes smaller ones only."""
        size = self._blob.descriptor.size
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        # A small blob is one segment with its headers; a generator's body would be a second one.
        content = self._small() if size <= 1 << 16 else lambda: self._reader.take(0, size)
        try:
            response = self._connection.send(
                "PUT", self._place(commit=True), headers=headers, content=content
            )
        except BrokenError:
            if _is_there(self._connection, self._blob):
                return True
            if not self._resumed():
                raise
            self._rest()
            return True
        if response.is_success:
            return True
        if response.status_code in TOO_LARGE:
            return False
        raise _RefusedError(response)

    def _small(self) -> bytes:
        return b"".join(self._blob.open())

    def _resumed(self) -> bool:
        """Asks how much has arrived; False if the upload is not worth going on with."""
        return self._asked() and self._offset > 0

    def _asked(self) -> bool:
        """Asks how much has arrived; False if the registry knows nothing of this upload."""
        try:
            response = self._connection.request("GET", self._place())
        except TransportError:
            return False
        if response.status_code != 204:
            return False
        self._offset = _end(response)
        if response.headers.get("Location"):
            self._moved(response)
        return self._offset <= self._blob.descriptor.size

    def _rest(self) -> None:
        """Everything from the offset on, in chunks, and the commit."""
        size, stuck = self._blob.descriptor.size, 0
        while self._offset < size:
            before = self._offset
            self._patch(min(self._chunk, size - self._offset))
            stuck = stuck + 1 if self._offset <= before else 0
            if stuck and not self._connection.host.pause(stuck):
                raise BrokenError(f"{self._connection.host.name} takes no more of {self._blob.digest}.")
        try:
            response = self._connection.send("PUT", self._place(commit=True), content=b"")
        except BrokenError:
            if _is_there(self._connection, self._blob):
                return
            raise
        if not response.is_success:
            raise _RefusedError(response)

    def _patch(self, count: int) -> None:
        start = self._offset
        headers = {
            "Content-Length": str(count),
            "Content-Range": f"{start}-{start + count - 1}",
            "Content-Type": "application/octet-stream",
        }
        try:
            response = self._connection.send(
                "PATCH", self._place(), headers=headers, content=lambda: self._reader.take(start, count)
            )
        except BrokenError:
            if not self._resumed():
                raise
            return
        if response.is_success:
            self._moved(response)
            self._offset = _end(response) if response.headers.get("Range") else start + count
        elif response.status_code in TOO_LARGE and self._asked():
            self._chunk = min(self._chunk, max(self._chunk // 4, self._smallest))
        elif response.status_code not in AGAIN or not self._resumed():
            raise _RefusedError(response)

    def abandon(self) -> None:
        """Lets the registry drop what it holds of this session."""
        if self._location is not None:
            self._connection.forget(self._location)
            self._location = None


def _end(response: Response) -> int:
    """How many bytes the registry holds: ``Range`` names the last one, and says 0-0 for none."""
    found = _RANGE.fullmatch(response.headers.get("Range", "").strip())
    last = int(found[1]) if found else 0
    return last + 1 if last else 0


class _Reader:
    """Reads a blob piece by piece, going back by reading it anew; at its end it is verified."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._chunks: Iterator[bytes] = iter(())
        self._position = -1
        self._left = b""

    def take(self, start: int, count: int) -> Iterator[bytes]:
        """``count`` bytes from ``start`` on; `VerificationError` if the blob does not have them."""
        if start != self._position:
            self._chunks, self._left, self._position = self._blob.open(), b"", 0
            for _ in self._next(start):
                pass
        yield from self._next(count)
        if self._position == self._blob.descriptor.size:
            for _ in self._chunks:
                pass

    def _next(self, count: int) -> Iterator[bytes]:
        while count:
            chunk = self._left or next(self._chunks, b"")
            if not chunk:
                raise VerificationError(f"{self._blob.digest} ends early; nothing of it was kept.")
            piece, self._left = chunk[:count], chunk[count:]
            self._position += len(piece)
            count -= len(piece)
            yield piece

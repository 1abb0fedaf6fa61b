"""One HTTP/1.1 connection to a server: h11's state machine on a stream.

A batch of thousands of images consists of small requests. So a request with a small body is one write, and
there is little between it and the socket: httpcore2's pool takes twice the processor time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import h11

from graftbox.image.stream import LostError, SlowError, Stream

Content = bytes | Iterable[bytes] | None
Lines = list[tuple[bytes, bytes]]
"""Header fields as they are sent."""

IDLE = 30.0
"""Seconds after which an unused connection is closed: before most servers do it."""
PIECE = 64 * 1024
LONGEST_HEAD = 100 * 1024
"""Bytes of an answer's header fields."""
SLOWEST_HEAD = 30.0
"""Seconds from their first byte to their last."""


class Channel:
    """For one thread at a time, and one request after the other."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self._until = 0.0

    def ask(self, method: str, target: bytes, lines: Lines, content: Content) -> h11.Response:
        """Sends a request; the start of its answer. Raises what `pool.in_words` knows to translate."""
        # A server may answer before it has read everything, and then close.
        with contextlib.suppress(LostError):
            self._send(h11.Request(method=method, target=target, headers=lines), content)
        while True:
            event = self._next()
            if isinstance(event, h11.Response):
                return event

    def _send(self, request: h11.Request, content: Content) -> None:
        head = self._state.send(request) or b""
        if content is None or isinstance(content, bytes):
            body = self._state.send(h11.Data(data=content)) if content else b""
            end = self._state.send(h11.EndOfMessage()) or b""
            # Together they are one segment; a second one might wait for the first one's receipt.
            self._stream.write(b"".join((head, body or b"", end)))
            return
        self._stream.write(head)
        for piece in content:
            self._stream.write(self._state.send(h11.Data(data=piece)) or b"")
        self._stream.write(self._state.send(h11.EndOfMessage()) or b"")

    def pieces(self) -> Iterator[bytes]:
        """The answer's body as it arrives."""
        while True:
            event = self._next()
            if not isinstance(event, h11.Data):
                return
            yield bytes(event.data)

    def _next(self) -> Any:
        begun = None
        while (event := self._state.next_event()) is h11.NEED_DATA:
            data = self._stream.read(PIECE)
            if self._state.their_state is h11.SEND_RESPONSE:
                if not data:
                    raise LostError("Server disconnected without sending a response.")
                # A body that trickles is for its reader to judge.
                begun = begun or time.monotonic()
                if time.monotonic() - begun > SLOWEST_HEAD:
                    raise SlowError("The answer's header fields do not come to an end.")
            self._state.receive_data(data)
        return event

    def rewind(self) -> bool:
        """Makes it ready for the next request; False if it has to be closed instead."""
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        self._until = time.monotonic() + IDLE
        return True

    @property
    def is_expired(self) -> bool:
        """Whether it was unused for too long."""
        return time.monotonic() >= self._until

    @property
    def is_usable(self) -> bool:
        """Whether an unused one is worth a request: a server that speaks without being asked hangs up."""
        return not self.is_expired and not self._stream.is_readable

    def close(self) -> None:
        self._stream.close()

"""What a running command has printed: bytes between two marks, in bounded memory."""

from __future__ import annotations

HEAD = 4 * 1024 * 1024
TAIL = 4 * 1024 * 1024


class Output:
    """Bytes since the last `take`, of which the first `HEAD` and the last `TAIL` at least are kept."""

    def __init__(self, head: int = HEAD, tail: int = TAIL) -> None:
        self.head_limit, self.tail_limit = head, tail
        self.head, self.tail = bytearray(), bytearray()
        self.dropped = 0

    def append(self, data: bytes) -> None:
        if not self.tail and (room := self.head_limit - len(self.head)) > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            self.tail += data
            # Cutting at twice the size makes the cost of cutting vanish.
            if len(self.tail) > 2 * self.tail_limit:
                self.dropped += len(self.tail) - self.tail_limit
                del self.tail[: -self.tail_limit]

    def take(self) -> tuple[bytes, bytes, int]:
        """``(head, tail, dropped)`` and start anew; ``tail`` follows ``head`` directly when nothing was
        dropped.
        """
        taken = bytes(self.head), bytes(self.tail), self.dropped
        self.head, self.tail, self.dropped = bytearray(), bytearray(), 0
        return taken


class Marks:
    """Cuts the pane's stream at marks: terminal control strings that no program but the shell's own lines can
    know.

    `feed` calls ``on_text(bytes)`` for the stream between marks and ``on_mark(bytes)`` for each mark's
    content. A mark split over chunks is put together; one that would never end is let go as text.
    """

    MAX = 256

    def __init__(self, nonce: str) -> None:
        self.start = f"\x1b]7777;{nonce};".encode()
        self.rest = b""

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """The pieces of ``data`` in order, each ``(is_mark, bytes)``."""
        data = self.rest + data
        self.rest = b""
        pieces: list[tuple[bool, bytes]] = []
        position = 0
        while (found := data.find(self.start, position)) >= 0:
            end = data.find(b"\x07", found)
            if end < 0 and len(data) - found < self.MAX:
                break
            if found > position:
                pieces.append((False, data[position:found]))
            if end < 0:
                position = found + len(self.start)
            else:
                pieces.append((True, data[found + len(self.start) : end]))
                position = end + 1
        keep = found if found >= 0 else self._partial(data, position)
        if keep > position:
            pieces.append((False, data[position:keep]))
        self.rest = data[keep:]
        return pieces

    def _partial(self, data: bytes, position: int) -> int:
        """Where a beginning of a mark at the end of ``data`` starts, else its length."""
        escape = data.rfind(b"\x1b", max(position, len(data) - len(self.start)))
        return escape if escape >= 0 and self.start.startswith(data[escape:]) else len(data)

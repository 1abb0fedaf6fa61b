"""Marks in a terminal's stream: control strings that no program but the shell's own lines can know."""

from __future__ import annotations

LONGEST = 256


class Marks:
    """Cuts a stream at its marks, each ``ESC ] 7777 ; NONCE ; CONTENT BEL``. A mark split over chunks is put
    together; one that would never end is let go as text.
    """

    def __init__(self, nonce: bytes) -> None:
        self.start = b"\x1b]7777;%s;" % nonce
        self.rest = b""

    def feed(self, data: bytes) -> list[tuple[bool, bytes]]:
        """The pieces of ``data`` in order: text, or a mark's content, ``(is_mark, bytes)``."""
        data = self.rest + data
        self.rest = b""
        pieces: list[tuple[bool, bytes]] = []
        position = 0
        while (found := data.find(self.start, position)) >= 0:
            end = data.find(b"\x07", found, found + LONGEST)
            if end < 0 and len(data) - found < LONGEST:
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

"""The messages between a keeper and the server: a kind of one byte, a length of four, the content.

Nothing but what is built in is imported: a keeper runs before every new shell.
"""

from __future__ import annotations

HEAD = 5


def frame(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(4, "big") + content


def length(data: bytes | bytearray) -> int:
    """The length of the whole frame that ``data``, of `HEAD` bytes or more, begins."""
    return HEAD + int.from_bytes(data[1:HEAD], "big")


def take(inbox: bytearray, largest: int) -> list[tuple[bytes, bytes]]:
    """Removes the whole frames from ``inbox``: (kind, content). A `ValueError` where one is larger."""
    found, position = [], 0
    while len(inbox) >= position + HEAD:
        end = position + length(inbox[position : position + HEAD])
        if end - position > largest:
            raise ValueError(f"a frame of {end - position} bytes, where {largest} are allowed")
        if len(inbox) < end:
            break
        found.append((bytes(inbox[position : position + 1]), bytes(inbox[position + HEAD : end])))
        position = end
    del inbox[:position]
    return found

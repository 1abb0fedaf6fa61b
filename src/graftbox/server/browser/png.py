"""PNG pictures as rows of bytes, and back: for 8 bits in each of three or four channels, as browsers write.

Whole rows are added at once, as one large number each: a picture of a page takes about 10 ms, without a
library.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}
_PLAIN = b"\0"
_UP = 2
_LARGEST = 64_000_000


@dataclass
class Picture:
    """``lines`` as they are in the file, ``values`` the bytes of each row as one number, ``changed`` rows of
    ``width`` times ``channels`` bytes that take their place.
    """

    width: int
    height: int
    channels: int
    lines: list[bytes]
    values: list[int]
    changed: dict[int, bytearray] = field(default_factory=dict)

    def row(self, number: int) -> bytearray:
        """The bytes of a row, to be changed."""
        found = self.changed.get(number)
        if found is None:
            size = self.width * self.channels
            found = self.changed[number] = bytearray(self.values[number].to_bytes(size, "little"))
        return found


class _Sums:
    """Sums of ``size`` bytes side by side, each modulo 256."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.low = int.from_bytes(b"\x7f" * size, "little")
        self.high = int.from_bytes(b"\x80" * size, "little")
        self.all = self.low | self.high

    def add(self, a: int, b: int) -> int:
        return ((a & self.low) + (b & self.low)) ^ ((a ^ b) & self.high)

    def along(self, a: int, step: int) -> int:
        """Each byte with all those before it that are a multiple of ``step`` away."""
        while step < self.size:
            a = self.add(a, a << (8 * step) & self.all)
            step *= 2
        return a


def decode(data: bytes) -> Picture:
    """Raises `ValueError` for what is no such picture."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("This is no PNG picture.")
    at = len(_SIGNATURE)
    header, packed = b"", []
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IHDR":
            header = data[at + 8 : at + 8 + length]
        elif kind == b"IDAT":
            packed.append(data[at + 8 : at + 8 + length])
        at += length + 12
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or color not in _CHANNELS or interlaced or width * height > _LARGEST:
        raise ValueError("This kind of PNG picture is not known here.")
    channels = _CHANNELS[color]
    raw = zlib.decompress(b"".join(packed))
    size = width * channels
    if len(raw) < height * (size + 1):
        raise ValueError("This PNG picture is cut off.")
    lines = [raw[row * (size + 1) : (row + 1) * (size + 1)] for row in range(height)]
    return Picture(width, height, channels, lines, _values(lines, size, channels))


def _values(lines: list[bytes], size: int, channels: int) -> list[int]:
    sums = _Sums(size)
    same = bytes((_UP,)) + bytes(size)
    values = []
    above = 0
    for line in lines:
        if line != same:
            value = int.from_bytes(line[1:], "little")
            kind = line[0]
            if kind == 1:
                above = sums.along(value, channels)
            elif kind == _UP:
                above = sums.add(value, above)
            elif kind:
                before = above.to_bytes(size, "little")
                above = int.from_bytes(_slowly(kind, bytearray(line[1:]), before, channels), "little")
            else:
                above = value
        values.append(above)
    return values


def _slowly(kind: int, line: bytearray, above: bytes, step: int) -> bytearray:
    """The filters Average (3) and Paeth (4), byte by byte."""
    for at in range(len(line)):
        left = line[at - step] if at >= step else 0
        up = above[at]
        if kind == 3:
            line[at] = (line[at] + (left + up) // 2) & 255
            continue
        corner = above[at - step] if at >= step else 0
        guess = left + up - corner
        _, best = min((abs(guess - left), 0), (abs(guess - up), 1), (abs(guess - corner), 2))
        line[at] = (line[at] + (left, up, corner)[best]) & 255
    return line


def encode(picture: Picture) -> bytes:
    size = picture.width * picture.channels
    lines = list(picture.lines)
    # A line depends on the row above it, too: what has changed, and what is below that, is written as it is.
    for number in {each + 1 for each in picture.changed}:
        if number < picture.height:
            lines[number] = _PLAIN + picture.values[number].to_bytes(size, "little")
    for number, row in picture.changed.items():
        lines[number] = _PLAIN + row
    color = next(color for color, channels in _CHANNELS.items() if channels == picture.channels)
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, color, 0, 0, 0)
    packed = zlib.compress(b"".join(lines), 1)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""The set of marks: a picture of a page on which what can be used is framed and labelled with its id.

As browsergym-core's ``overlay_som`` draws it, to the pixel: dashed frames of two pixels, labels in white on
black.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from functools import lru_cache
from typing import Any

from graftbox.server.browser.glyphs import glyphs
from graftbox.server.browser.png import Picture, decode, encode

SMALLEST = 20
"""Square pixels of what gets a frame."""
_DASH, _GAP = 4, 8
_MARGIN = 3


def overlay(picture: str, properties: dict[str, dict[str, Any]]) -> str:
    """The PNG ``picture``, in base64, with the marks on it; blocking, for some 30 ms."""
    marked = [
        (bid, each["bbox"])
        for bid, each in properties.items()
        if each["set_of_marks"] and each["bbox"] and each["bbox"][2] * each["bbox"][3] >= SMALLEST
    ]
    if not marked:
        return picture
    try:
        canvas = decode(b64decode(picture))
    except ValueError:
        return picture
    for bid, (x, y, width, height) in marked:
        _frame(canvas, x, y, x + width, y + height)
        _label(canvas, bid, x, y)
    return b64encode(encode(canvas)).decode("ascii")


def _frame(canvas: Picture, left: float, top: float, right: float, bottom: float) -> None:
    rows, columns = (round(top), round(bottom)), (round(left), round(right))
    for start, end in _dashes(left, right):
        # What is too short to be a line is a point.
        _fill(canvas, start, rows[0], end, rows[0] + (start != end))
    for start, end in _dashes(top, bottom):
        _fill(canvas, columns[1], start, columns[1] + (start != end), end)
    for start, end in _dashes(right, left):
        _fill(canvas, end, rows[1] - (start != end), start, rows[1])
    for start, end in _dashes(bottom, top):
        _fill(canvas, columns[0] - (start != end), end, columns[0], start)


def _dashes(start: float, end: float) -> list[tuple[int, int]]:
    length = abs(end - start)
    sign = 1 if end > start else -1
    found = []
    at = 0.0
    while at < length:
        found.append((round(start + sign * at), round(start + sign * min(at + _DASH, length))))
        at += _DASH + _GAP
    return found


def _fill(canvas: Picture, left: int, top: int, right: int, bottom: int) -> None:
    """Black, both ends included."""
    left, right = max(left, 0), min(right, canvas.width - 1)
    if left > right:
        return
    size = canvas.channels
    black = (b"\0" * 3 + b"\xff" * (size - 3)) * (right - left + 1)
    for row in range(max(top, 0), min(bottom, canvas.height - 1) + 1):
        canvas.row(row)[left * size : (right + 1) * size] = black


def _label(canvas: Picture, text: str, x: float, y: float) -> None:
    size = canvas.channels
    rows = _written(text, size)
    left, top = round(x) * size, round(y - len(rows) / 2 + 4)
    start, skipped, room = max(left, 0), max(-left, 0), max(canvas.width * size - left, 0)
    for number, row in enumerate(rows, top):
        if 0 <= number < canvas.height:
            cut = row[skipped:room]
            canvas.row(number)[start : start + len(cut)] = cut


@lru_cache(maxsize=1024)
def _written(text: str, size: int) -> tuple[bytes, ...]:
    """``text`` as pixels of ``size`` channels, white on black in a white frame."""
    found = []
    for row in _drawn(text):
        pixels = bytearray(b"\xff" * (size * len(row)))
        for channel in range(3):
            pixels[channel::size] = row
        found.append(bytes(pixels))
    return tuple(found)


def _drawn(text: str) -> list[bytearray]:
    """``text`` in brightness."""
    known = glyphs()
    letters = [known[each] for each in text if each in known]
    if not letters:
        return []
    starts = [0]
    for each in letters:
        starts.append(starts[-1] + each.advance)
    placed = list(zip(starts, letters, strict=False))
    left = min(start + each.box[0] for start, each in placed)
    right = max(start + each.box[2] for start, each in placed)
    top, bottom = min(each.box[1] for each in letters), max(each.box[3] for each in letters)
    width, height = right - left + 2 * _MARGIN, bottom - top + 2 * _MARGIN
    rows = [bytearray(width) for _ in range(height)]
    for start, each in placed:
        column = start + each.left - left + _MARGIN
        for number, brightness in enumerate(each.rows):
            row = rows[each.top + number - top + _MARGIN]
            for at, new in enumerate(brightness, column):
                row[at] = min(255, new + round(row[at] * (255 - new) / 255))
    rows[0][:] = rows[-1][:] = b"\xff" * width
    for row in rows:
        row[0] = row[-1] = 255
    return rows

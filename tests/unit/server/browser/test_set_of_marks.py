"""The set of marks, and the PNG pictures that it is drawn on."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode, b64encode
from typing import Any

import pytest

from graftbox.server.browser.marks import overlay
from graftbox.server.browser.png import Picture, decode, encode

WHITE, BLACK = b"\xff\xff\xff", b"\0\0\0"


def png(rows: list[bytes], width: int, channels: int = 3, kinds: bytes | None = None) -> bytes:
    """A PNG of rows that are filtered already."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    kinds = kinds or bytes(len(rows))
    data = b"".join(kinds[number : number + 1] + row for number, row in enumerate(rows))
    header = struct.pack(">IIBBBBB", width, len(rows), 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def pixels(picture: Picture) -> list[bytes]:
    return [bytes(picture.row(number)) for number in range(picture.height)]


def test_all_filters_of_png_are_undone() -> None:
    # Every row is 1 2 3, 4 5 6: as it is, and as each filter writes it below the row before.
    row = bytes((1, 2, 3, 4, 5, 6))
    filtered = [row, bytes((1, 2, 3, 3, 3, 3)), bytes(6), bytes((1, 1, 2, 2, 2, 2)), bytes(6)]
    found = decode(png(filtered, 2, kinds=bytes((0, 1, 2, 3, 4))))
    assert pixels(found) == [row] * 5


@pytest.mark.parametrize("channels", [3, 4])
def test_a_changed_picture_comes_back_as_it_was_made(channels: int) -> None:
    rows = [bytes((number * 7 + byte * 13) % 256 for byte in range(5 * channels)) for number in range(6)]
    picture = decode(png(rows, 5, channels))
    picture.row(3)[2] = 99
    again = decode(encode(picture))
    rows[3] = rows[3][:2] + b"\x63" + rows[3][3:]
    assert pixels(again) == rows


@pytest.mark.parametrize("data", [b"", b"GIF89a", png([b"\0"], 5), png([], 0)[:20]])
def test_what_is_no_such_picture_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, struct.error, zlib.error)):
        decode(data)


def marked(**properties: Any) -> Picture:
    page = b64encode(png([WHITE * 100] * 60, 100)).decode()
    return decode(b64decode(overlay(page, properties)))


def test_what_can_be_used_is_framed_and_labelled() -> None:
    canvas = marked(a1={"set_of_marks": True, "bbox": [30, 20, 40, 30]})
    top = bytes(canvas.row(20))
    assert (top[60 * 3 : 61 * 3], top[67 * 3 : 68 * 3], top[95 * 3 : 96 * 3]) == (WHITE, BLACK, WHITE)
    label = [bytes(canvas.row(number))[30 * 3 : 50 * 3] for number in range(16, 32)]
    assert label[0].startswith(WHITE * 20)
    assert {bytes(3), WHITE} < {line[at : at + 3] for line in label for at in range(0, 60, 3)}


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"1": {"set_of_marks": False, "bbox": [0, 0, 50, 50]}},
        {"1": {"set_of_marks": True, "bbox": None}},
        {"1": {"set_of_marks": True, "bbox": [0, 0, 4, 4]}},
    ],
)
def test_without_marks_the_picture_stays_as_it_is(properties: dict[str, Any]) -> None:
    page = b64encode(png([WHITE * 4] * 4, 4)).decode()
    assert overlay(page, properties) == page


def test_marks_outside_of_the_picture_are_cut() -> None:
    boxes = {str(number): [x, y, 90, 50] for number, (x, y) in enumerate(((-20, -10), (60, 40), (500, 9)))}
    canvas = marked(**{key: {"set_of_marks": True, "bbox": box} for key, box in boxes.items()})
    assert {len(row) for row in pixels(canvas)} == {300}


def test_a_picture_of_another_kind_is_left_alone() -> None:
    page = b64encode(b"\x89PNG nonsense").decode()
    assert overlay(page, {"1": {"set_of_marks": True, "bbox": [0, 0, 50, 50]}}) == page

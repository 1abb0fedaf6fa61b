"""Text files whose bytes stay what they are."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftbox.server.text import Text, decoded, is_binary

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю.\n"
CHINESE = "我们今天去看电影他说这个电影很好看。\n"
JAPANESE = "これは日本語の文章です。テストのために書きました。\n"
KOREAN = "이것은 한국어 문장입니다. 시험을 위해 썼습니다.\n"
TAIWANESE = "我們今天去看電影他說這個電影很好看。\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("naïve café, größer\n", "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (RUSSIAN, "cp866"),
        (CHINESE, "gb18030"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "euc_kr"),
        (TAIWANESE, "big5"),
        (CHINESE, "utf-8"),
        ("plain\n", "utf-8"),
    ],
)
def test_old_encodings_are_recognised(content: str, encoding: str) -> None:
    data = f"# a comment\n{content}".encode(encoding)
    text = decoded(data)
    assert text.content == f"# a comment\n{content}"
    assert text.encoded() == data
    assert not is_binary(data)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_a_byte_order_mark_is_kept_and_not_shown(mark: bytes, encoding: str) -> None:
    data = mark + "a☃\r\n".encode(encoding)
    text = decoded(data)
    assert text.content == "a☃\n"
    assert not is_binary(data)
    assert text.replaced(0, 1, "b").encoded() == mark + "b☃\r\n".encode(encoding)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_new_lines_end_as_the_others(newline: str) -> None:
    text = Text(f"a{newline}b{newline}")
    assert text.replaced(2, 2, "x\ny\n").raw == newline.join(["a", "x", "y", "b", ""])


@given(st.binary(max_size=200))
def test_any_bytes_survive_being_text(data: bytes) -> None:
    assert decoded(data).encoded() == data


@given(st.text("ab\r\né", max_size=30), st.data())
def test_a_replacement_changes_nothing_around_it(raw: str, data: st.DataObject) -> None:
    text = Text(raw)
    start = data.draw(st.integers(0, len(text.content)))
    end = data.draw(st.integers(start, len(text.content)))
    same = text.replaced(start, start, "")
    assert same.raw == raw
    changed = text.replaced(start, end, "X")
    assert changed.content == text.content[:start] + "X" + text.content[end:]
    before, _, after = changed.raw.partition("X")
    assert raw.startswith(before)
    assert raw.endswith(after)


@pytest.mark.parametrize(
    ("start", "binary"),
    [
        (b"", False),
        (b"a\0b", True),
        (b"\x89PNG\r\n\x1a\n\0\0", True),
        (bytes(range(1, 256)), True),
        (b"\x1b[1mx", False),
    ],
)
def test_binary_files_are_told_from_text(start: bytes, binary: bool) -> None:
    assert is_binary(start) is binary

"""What a reader sees of a program's terminal output."""

from __future__ import annotations

import pytest

from graftbox.server.marks import Marks
from graftbox.server.terminal import render


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one\r\ntwo\r\n", "one\ntwo\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07plain", "red plain"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b" 10%\r 50%\r100%\r\n", "100%\n"),
        (b"long line\rshort\x1b[K\r\n", "short\n"),
        (b"abc\x08\x08X\r\n", "aXc\n"),
        (b"a: 1\r\nb: 1\r\n\x1b[2A\ra: 2\x1b[K\r\n\x1b[B", "a: 2\nb: 1\n"),
        (b"x\x1b[5Cy", "x     y"),
        (b"12345\x1b[3D__", "12__5"),
        (b"tab\there", "tab\there"),
        ("é☃😀".encode(), "é☃😀"),
        (b"broken \xe2\x98", "broken \ufffd"),
        (b"a\x00b\x07c\x7f", "abc"),
        (b"up\x1b[99999999A\x1b[99999999Cfar", "up" + " " * 10_000 + "far"),
        (b"left open \x1b[", "left open "),
        (b"one\r\r\ntwo", "one\ntwo"),
    ],
)
def test_control_sequences_leave_the_text_that_a_reader_would_see(data: bytes, text: str) -> None:
    assert render(data) == text


def test_a_mark_is_found_however_the_stream_is_cut() -> None:
    stream = b"before\x1b]7777;abc;B1\x07text\x1b[0m\x1b]77 more\x1b]7777;abc;E1\x07after\x1b"
    for cut in range(len(stream)):
        marks = Marks(b"abc")
        pieces = marks.feed(stream[:cut]) + marks.feed(stream[cut:])
        assert [piece for is_mark, piece in pieces if is_mark] == [b"B1", b"E1"]
        text = b"".join(b"|" if is_mark else piece for is_mark, piece in pieces)
        assert text == b"before|text\x1b[0m\x1b]77 more|after"


def test_a_mark_of_another_shell_is_text() -> None:
    assert Marks(b"abc").feed(b"\x1b]7777;xyz;B1\x07.") == [(False, b"\x1b]7777;xyz;B1\x07.")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            b"before\r\n\x1b[?1049h\x1b[H\x1b[2Jtop\x1b[3;1Hthird\x1b[2;5Hsecond",
            "before\ntop\n    second\nthird",
        ),
        (b"before\r\n\x1b[?1049h\x1b[H\x1b[2Jtop\x1b[?1049lafter\r\n", "before\nafter\n"),
        (b"\x1b[?1049hone\r\ntwo\r\nthree\r\nfour\r\nfive", "two\nthree\nfour\nfive"),
        (
            b"\x1b[?1049h\x1b[1;3rone\r\ntwo\r\nthree\r\n\x1b[4;1Hstatus\x1b[3;1Hnew",
            "two\nthree\nnew\nstatus",
        ),
        (b"\x1b[?1049hone\r\ntwo\x1b[1;1H\x1bMzero", "zero\none\ntwo"),
        (b"\x1b[?1049hone\r\ntwo\r\nthree\x1b[2;1H\x1b[M", "one\nthree"),
        (b"\x1b[?1049hone\r\ntwo\x1b[1;1H\x1b[Lnew", "new\none\ntwo"),
        (b"\x1b[?1049habcdef\x1b[3D\x1b[P\x1b[2@", "abc  ef"),
        ("\x1b[?1049h日本\x1b[1;5Hx".encode(), "日本x"),
        (b"\x1b[?1049h0123456789abc", "0123456789\nabc"),
        (b"\x1b[?1049hfull\x1b[H\x1b[J", ""),
        (b"\x1b[?1049h\x1b[999;999Hx\x1b[999A\x1b[99999L\x1b[99999@\x1b[0;0r", ""),
    ],
)
def test_a_full_screen_program_reads_as_what_stands_on_its_screen(data: bytes, text: str) -> None:
    assert render(data, columns=10, rows=4) == text

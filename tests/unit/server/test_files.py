"""Reading and writing files as an agent does."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from graftbox.server.files import read, write
from graftbox.wire.actions import Read, Write
from graftbox.wire.observations import Failure, ReadResult, WriteResult


def content(folder: Path, path: str, start: int = 0, end: int = -1) -> str:
    answer = read(Read(path, start, end), str(folder))
    assert isinstance(answer, ReadResult), answer
    return answer.content


@pytest.mark.parametrize(
    ("written", "stored"), [("a\nb", "a\nb\n"), ("a\n", "a\n"), ("a\n\n", "a\n\n"), ("", ""), ("é☃", "é☃\n")]
)
def test_a_written_file_ends_with_one_newline(tmp_path: Path, written: str, stored: str) -> None:
    assert write(Write("f", written), str(tmp_path)) == WriteResult(str(tmp_path / "f"))
    assert (tmp_path / "f").read_text() == stored
    assert content(tmp_path, "f") == stored


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write(Write("a/b/c.txt", "x"), str(tmp_path))
    assert (tmp_path / "a/b/c.txt").read_text() == "x\n"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, -1, "1\n2\n3\n"), (1, 2, "2\n"), (1, -1, "2\n3\n"), (2, 3, "3\n"), (2, 99, "3\n"), (9, -1, "")],
)
def test_a_range_of_lines_is_read(tmp_path: Path, start: int, end: int, expected: str) -> None:
    (tmp_path / "f").write_text("1\n2\n3\n")
    assert content(tmp_path, "f", start, end) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(1, 2, "1\nX\n3"), (0, 1, "X\n2\n3"), (3, -1, "1\n2\n3\nX\n"), (1, -1, "1\nX\n")],
)
def test_a_range_of_lines_is_replaced(tmp_path: Path, start: int, end: int, expected: str) -> None:
    (tmp_path / "f").write_text("1\n2\n3")
    write(Write("f", "X", start, end), str(tmp_path))
    assert (tmp_path / "f").read_text() == expected


def test_mode_and_link_survive_a_write(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o751)
    (tmp_path / "link").symlink_to("real")
    os.link(tmp_path / "real", tmp_path / "twin")
    write(Write("link", "new"), str(tmp_path))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "twin").read_text() == "new\n"
    (tmp_path / "twin").unlink()
    write(Write("real", "newer"), str(tmp_path))
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o751
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("path", ["", ".", "no/such", "f/below", "a\0b"])
def test_what_can_not_be_read_is_answered_with_a_reason(tmp_path: Path, path: str) -> None:
    (tmp_path / "f").write_text("x")
    answer = read(Read(path), str(tmp_path))
    assert isinstance(answer, Failure)
    assert answer.content


@pytest.mark.parametrize("path", ["", ".", "f/below", "a\0b", "x" * 300])
def test_what_can_not_be_written_is_answered_with_a_reason(tmp_path: Path, path: str) -> None:
    (tmp_path / "f").write_text("x")
    assert isinstance(write(Write(path, "y"), str(tmp_path)), Failure)
    assert (tmp_path / "f").read_text() == "x"


def test_binary_and_undecodable_files_are_not_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\x00\x01")
    (tmp_path / "l").write_bytes("é".encode("latin-1"))
    assert read(Read("b"), str(tmp_path)) == Failure("ERROR_BINARY_FILE")
    assert read(Read("l"), str(tmp_path)) == Failure(f"File could not be decoded as utf-8: {tmp_path / 'l'}.")
    viewed = read(Read(str(tmp_path / "l"), impl_source="oh_aci"), str(tmp_path))
    assert "     1\té" in viewed.content


def test_a_picture_that_is_text_comes_as_a_data_url(tmp_path: Path) -> None:
    (tmp_path / "p.pdf").write_text("%PDF-1.4")
    assert content(tmp_path, "p.pdf") == "data:application/pdf;base64,JVBERi0xLjQ="


def test_lines_are_replaced_in_the_encoding_and_with_the_line_ends_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("eins\r\nzw\xf6lf\r\ndrei\r\n".encode("latin-1"))
    write(Write("f", "größer\nals", 0, 1), str(tmp_path))
    assert (tmp_path / "f").read_bytes() == "größer\r\nals\r\nzwölf\r\ndrei\r\n".encode("latin-1")


@pytest.mark.parametrize("view_range", [(0, 1), (1,), (3, 2), (9, 10)])
def test_a_wrong_view_range_is_explained(tmp_path: Path, view_range: tuple[int, ...]) -> None:
    (tmp_path / "f").write_text("1\n2\n")
    answer = read(Read(str(tmp_path / "f"), impl_source="oh_aci", view_range=view_range), str(tmp_path))
    assert answer.content.startswith("ERROR:\nInvalid `view_range` parameter")


def test_what_is_no_regular_file_is_neither_read_nor_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in ("fifo", "/dev/zero"):
        for answer in (
            read(Read(path), str(tmp_path)),
            read(Read(path, impl_source="oh_aci"), str(tmp_path)),
            write(Write(path, "x"), str(tmp_path)),
        ):
            assert isinstance(answer, Failure)
            assert "not a regular file" in answer.content


def test_a_file_beyond_the_limit_is_refused_with_advice(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    answer = read(Read("big"), str(tmp_path))
    assert isinstance(answer, Failure)
    assert "work on parts of it with a command" in answer.content

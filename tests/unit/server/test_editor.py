"""The editor as an agent uses it."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftbox.server.editor import Editor
from graftbox.server.history import DEPTH, History
from graftbox.server.identity import Identity
from graftbox.wire.actions import Edit, InvalidActionError
from graftbox.wire.observations import EditResult


class Session:
    def __init__(self, folder: Path) -> None:
        self.editor, self.folder = Editor(), folder

    def edits(self, *actions: Edit) -> list[EditResult]:
        return asyncio.run(self.editor.run_all(actions, str(self.folder), Identity.own()))

    def do(self, command: str, name: str = "f", **arguments: object) -> str:
        path = str(self.folder / name)
        return self.edits(Edit(path, command, **arguments))[0].content  # type: ignore[arg-type]  # by keyword


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def shown(*lines: str, first: int = 1) -> str:
    return "".join(f"{number:6}\t{line}\n" for number, line in enumerate(lines, first))


def test_a_file_is_created_viewed_changed_and_restored(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert session.do("create", file_text="a\nb\n") == f"File created successfully at: {path}"
    assert session.do("view") == f"Here's the result of running `cat -n` on {path}:\n{shown('a', 'b', '')}"
    answer = session.do("str_replace", old_str="b", new_str="c")
    assert answer.startswith(
        f"The file {path} has been edited. Here's the result of running `cat -n` on a snippet"
    )
    assert answer.endswith("expected. Edit the file again if necessary.")
    assert path.read_text() == "a\nc\n"
    assert session.do("insert", insert_line="1", new_str="x").count("no duplicate lines")
    assert path.read_text() == "a\nx\nc\n"
    assert session.do("undo_edit").startswith(f"Last edit to {path} undone successfully. ")
    session.do("undo_edit")
    assert path.read_text() == "a\nb\n"
    session.do("undo_edit")
    assert session.do("undo_edit") == f"ERROR:\nNo edit history found for {path}."


def test_line_ends_encoding_and_mode_stay(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes("Grüße\r\nzwei\r\n".encode("latin-1"))
    path.chmod(0o750)
    session.do("str_replace", old_str="Grüße\nzwei", new_str="Größe\nzwei\ndrei")
    session.do("insert", insert_line=0, new_str="null")
    assert path.read_bytes() == "null\r\nGröße\r\nzwei\r\ndrei\r\n".encode("latin-1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert "can't encode" in session.do("str_replace", old_str="null", new_str="☃")
    session.do("undo_edit")
    session.do("undo_edit")
    assert path.read_bytes() == "Grüße\r\nzwei\r\n".encode("latin-1")


def test_a_line_inserted_at_an_open_end_stands_on_its_own(session: Session, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a")
    session.do("insert", insert_line=1, new_str="b")
    assert (tmp_path / "f").read_text() == "a\nb\n"


@pytest.mark.parametrize(
    ("command", "arguments", "reason"),
    [
        (
            "view",
            {"view_range": (3, 1)},
            "Invalid `view_range` parameter: [3, 1]. Its second element `1` should",
        ),
        (
            "view",
            {"view_range": (4, 5)},
            "Its first element `4` should be within the range of lines of the file",
        ),
        ("create", {"file_text": ""}, "Cannot overwrite files using command `create`"),
        ("str_replace", {}, "Parameter `old_str` is required for command: str_replace."),
        ("str_replace", {"old_str": "zz", "new_str": ""}, "old_str `zz` did not appear verbatim"),
        ("str_replace", {"old_str": "a", "new_str": "a"}, "`new_str` and `old_str` must be different."),
        (
            "str_replace",
            {"old_str": "\n", "new_str": ""},
            "Multiple occurrences of old_str `\n` in lines [1, 2, 3].",
        ),
        ("insert", {"insert_line": 4, "new_str": ""}, "within the range of allowed values: [0, 3]"),
        (
            "insert",
            {"insert_line": "x", "new_str": ""},
            "Invalid insert_line value: 'x'. Expected an integer.",
        ),
        ("undo_edit", {}, "No edit history found"),
        (
            "",
            {},
            "The allowed commands for the oh_editor tool are: view, create, str_replace, insert, undo_edit",
        ),
    ],
)
def test_a_mistake_is_explained_and_changes_nothing(
    session: Session, tmp_path: Path, command: str, arguments: dict[str, object], reason: str
) -> None:
    (tmp_path / "f").write_text("a\nb\nc\n")
    answer = session.do(command, "f", **arguments)
    assert answer.startswith("ERROR:\n")
    assert reason in answer
    assert (tmp_path / "f").read_text() == "a\nb\nc\n"


def test_a_path_below_a_file_does_not_exist(session: Session, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    assert session.do("view", "f/below").endswith("does not exist. Please provide a valid path.")


def test_binary_large_and_special_files_are_refused(session: Session, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\0\1")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(11 * 1024 * 1024)
    os.mkfifo(tmp_path / "pipe")
    assert "File appears to be binary" in session.do("view", "binary")
    assert "File is too large (11.0MB). Maximum allowed size is 10MB." in session.do("view", "large")
    assert "not a regular file" in session.do("view", "pipe")
    assert "null character" in session.do("create", "a\0b", file_text="")


def test_a_folder_shows_two_levels_sorted_and_without_hidden_names(session: Session, tmp_path: Path) -> None:
    for name in ("a", "a.d/deep/deeper", ".hidden"):
        (tmp_path / "w" / name).mkdir(parents=True)
    (tmp_path / "w/a/.x").touch()
    root = tmp_path / "w"
    listing = "\n".join([f"{root}/", f"{root}/a/", f"{root}/a.d/", f"{root}/a.d/deep/"])
    answer = session.do("view", "w")
    assert answer.startswith(f"Here's the files and directories up to 2 levels deep in {root}")
    assert f":\n{listing}\n\n1 hidden files/directories" in answer


def test_several_edits_are_made_together_or_not_at_all(session: Session, tmp_path: Path) -> None:
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    create = Edit(first, "create", file_text="one\n")
    change = Edit(first, "str_replace", old_str="one", new_str="two")
    assert len(session.edits(create, change, Edit(second, "str_replace", old_str="a", new_str="b"))) == 3
    assert list(tmp_path.iterdir()) == []
    answers = session.edits(create, change, Edit(second, "create", file_text=""))
    assert not any(answer.content.startswith("ERROR") for answer in answers)
    assert (tmp_path / "1").read_text() == "two\n"
    assert (tmp_path / "2").read_text() == ""


def test_edits_for_a_language_model_are_made_elsewhere(session: Session) -> None:
    with pytest.raises(InvalidActionError):
        session.edits(Edit("/f", content="x", impl_source="llm_based_edit"))


def test_a_change_in_a_long_file_has_a_short_diff(session: Session, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("same\n" * 15_000 + "old\n" + "same\n" * 15_000)
    edit = Edit(str(tmp_path / "f"), "str_replace", old_str="old", new_str="new\nand more")
    diff = session.edits(edit)[0].diff
    assert diff == f"--- {edit.path}\n+++ {edit.path}\n@@ -15001 +15001,2 @@\n-old\n+new\n+and more"


def test_the_history_is_bounded() -> None:
    history = History(limit=3000)
    for number in range(20):
        history.add(Path("/a"), b"%d" % number)
    assert len(history.files[Path("/a")]) == DEPTH
    for number in range(100):
        history.add(Path(f"/{number}"), os.urandom(200))
    assert history.size <= 3000
    assert Path("/a") not in history.files
    assert Path("/99") in history.files


LINES = st.lists(st.sampled_from(["a", "b", " c", "", "long line\t"]), max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["\n", "\r\n"]), LINES, st.lists(st.tuples(st.integers(0, 12), LINES), max_size=5))
def test_undo_brings_every_state_back(
    newline: str, start: list[str], inserts: list[tuple[int, list[str]]]
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path, session = Path(folder, "f"), Session(Path(folder))
        path.write_bytes(newline.join(start).encode())
        states = []
        for line, new in inserts:
            before = path.read_bytes()
            if not session.do("insert", insert_line=line, new_str="\n".join(new)).startswith("ERROR"):
                states.append(before)
        for state in reversed(states):
            session.do("undo_edit")
            assert path.read_bytes() == state


@given(LINES, st.integers(-1, 10), st.integers(-1, 10))
def test_a_view_range_shows_exactly_these_lines(lines: list[str], first: int, last: int) -> None:
    from graftbox.server.text import Text
    from graftbox.server.viewer import EditError, view_file

    text = Text("".join(line + "\n" for line in lines))
    end = len(lines) if last == -1 else min(last, len(lines))
    if not 1 <= first <= len(lines) or end < first:
        with pytest.raises(EditError):
            view_file(Path("/f"), text, (first, last))
        return
    answer = view_file(Path("/f"), text, (first, last)).removeprefix("NOTE: ")
    assert answer.endswith(":\n" + shown(*lines[first - 1 : end], first=first))

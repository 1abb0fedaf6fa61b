"""Replacing files in one step."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from graftbox.server.disk import Draft, SpecialFileError, open_regular, put


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_seen_of_a_draft_before_it_is_committed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    draft = Draft(tmp_path / "f")
    draft.write(b"new")
    assert (tmp_path / "f").read_text() == "old"
    draft.commit()
    assert (tmp_path / "f").read_text() == "new"
    assert names(tmp_path) == ["f"]


def test_a_discarded_draft_leaves_nothing(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "f")
    draft.write(b"new")
    draft.discard()
    draft.discard()
    assert names(tmp_path) == []


def test_an_exclusive_commit_does_not_replace_a_file_that_came_in_between(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "f")
    draft.write(b"new")
    (tmp_path / "f").write_text("theirs")
    with pytest.raises(FileExistsError):
        draft.commit(exclusive=True)
    assert (tmp_path / "f").read_text() == "theirs"
    assert names(tmp_path) == ["f"]


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        put(tmp_path / "f", b"x")
        put(tmp_path / "f", b"y")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_hard_links_extended_attributes_and_links_stay(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a long old content")
    os.link(tmp_path / "f", tmp_path / "twin")
    (tmp_path / "link").symlink_to("f")
    put(tmp_path / "link", b"new")
    assert (tmp_path / "twin").read_text() == "new"
    put(tmp_path / "link", b"longer than it ever was before")
    assert (tmp_path / "twin").read_text() == "longer than it ever was before"
    (tmp_path / "twin").unlink()
    try:
        os.setxattr(tmp_path / "f", "user.note", b"kept")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    put(tmp_path / "link", b"newer")
    assert os.getxattr(tmp_path / "f", "user.note") == b"kept"
    assert names(tmp_path) == ["f", "link"]


def test_a_dangling_link_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f")
    put(tmp_path / "link", b"x")
    assert (tmp_path / "f").read_text() == "x"


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(SpecialFileError):
            open_regular(path)
        with pytest.raises(SpecialFileError):
            Draft(path)


def test_a_name_that_is_too_long_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        put(tmp_path / ("x" * 256), b"x")
    assert names(tmp_path) == []


def test_a_program_that_runs_is_replaced(tmp_path: Path) -> None:
    program = tmp_path / "sleeper"
    shutil.copy2("/bin/sleep", program)
    with subprocess.Popen([program, "20"]) as running:
        put(program, b"#!/bin/sh\nexit 7\n")
        assert subprocess.run([program], check=False).returncode == 7
        running.kill()


def test_a_program_can_be_started_while_its_successor_is_being_written(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    draft = Draft(program)
    draft.write(b"#!/bin/sh\nexit 8\n")
    assert subprocess.run([program], check=False).returncode == 7
    draft.commit()
    assert subprocess.run([program], check=False).returncode == 8

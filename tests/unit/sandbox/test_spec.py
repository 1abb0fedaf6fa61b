"""Options as a user writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.errors import UsageError
from graftbox.sandbox.spec import Volume, checked_name, new_key, variable


def test_names_are_what_every_engine_accepts() -> None:
    assert checked_name("my.box_1-a") == "my.box_1-a"
    assert checked_name(None) != checked_name(None)
    for name in ("", "a", "-a", "a/b", "a b", "ä1", "a" * 64, "../x"):
        with pytest.raises(UsageError, match="cannot name a sandbox"):
            checked_name(name)


def test_keys_differ_and_are_long() -> None:
    assert new_key() != new_key()
    assert len(new_key()) >= 40


def test_variables_are_given_or_taken_from_the_caller() -> None:
    assert variable("A=b=c", {}) == ("A", "b=c")
    assert variable("A=", {}) == ("A", "")
    assert variable("A", {"A": "x"}) == ("A", "x")
    assert variable("A", {}) is None
    with pytest.raises(UsageError):
        variable("=x", {})


def test_volumes_have_two_paths_and_a_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert Volume.parse("data:/srv:ro") == Volume(tmp_path / "data", "/srv", True)
    assert Volume.parse(f"{tmp_path}:/srv") == Volume(tmp_path, "/srv", False)
    for text in ("data", "data:srv", ":/srv", "data:/srv:rx", "data:/srv:ro:x", "gone:/srv"):
        with pytest.raises(UsageError):
            Volume.parse(text)

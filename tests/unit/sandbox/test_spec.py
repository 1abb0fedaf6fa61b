"""Options as a user writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftbox.errors import UsageError
from graftbox.sandbox.spec import (
    EngineImage,
    Network,
    SandboxSpec,
    UnpackedImage,
    Volume,
    checked_name,
    new_key,
    temporary_folder,
    variable,
)


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


def test_what_a_sandbox_was_asked_to_be_survives_being_written_down() -> None:
    plain = SandboxSpec("box", "key", "busybox", EngineImage("busybox:1"), None)
    full = SandboxSpec(
        "box",
        "key",
        "oci:x",
        UnpackedImage(Path("/rootfs"), {"Env": ["A=b"], "User": ""}),
        Path("/tree"),
        env=(("A", "b=c"), ("ODD", "\udcff")),
        user="7:8",
        working_dir="/w",
        volumes=(Volume(Path("/here"), "/there", True), Volume(Path("/a"), "/b")),
        tmpfs=("/tmp",),
        read_only=True,
        network=Network.NONE,
        cap_drop=("ALL",),
        no_new_privileges=True,
        port=8000,
    )
    for spec in (plain, full):
        assert SandboxSpec.of(json.loads(json.dumps(spec.facts()))) == spec


@pytest.mark.parametrize("target", ["/", "//", "/openhands", "/openhands/", "/x/../openhands"])
def test_nothing_is_mounted_over_the_sandboxs_own_files(target: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose another path"):
        Volume.parse(f"{tmp_path}:{target}")
    with pytest.raises(UsageError, match="choose another path"):
        temporary_folder(target)
    assert temporary_folder("/openhands-data") == "/openhands-data"

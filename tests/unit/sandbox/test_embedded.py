"""The embedded engine's own records and words; real sandboxes are in the integration tests."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from graftbox.errors import ConfigurationError, NotFoundError, TransportError, UnsupportedError
from graftbox.sandbox.engines.embedded import EmbeddedEngine, State, _failure, _NoOverlayError, system_program
from graftbox.sandbox.process import ProcessId
from graftbox.sandbox.spec import SandboxSpec, UnpackedImage
from graftbox.store import Store


@pytest.fixture
def engine(tmp_path: Path) -> EmbeddedEngine:
    return EmbeddedEngine(Store(tmp_path), lambda: pytest.fail("nothing is to be started"))


def recorded(tmp_path: Path, name: str = "box", process: ProcessId | None = None) -> State:
    folder = tmp_path / "sandboxes" / name
    folder.mkdir(parents=True)
    (folder / "log").write_text("said\n")
    state = State(name, "oci:x", "http://127.0.0.1:1", "secret", process or ProcessId(1, 1, "another boot"))
    state.write(folder / "state.json")
    return state


def test_the_record_holds_a_key_and_is_for_its_owner_only(tmp_path: Path) -> None:
    state = recorded(tmp_path)
    path = tmp_path / "sandboxes/box/state.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert State.read(path) == state


def test_sandboxes_of_an_earlier_boot_have_ended_and_can_be_removed(
    tmp_path: Path, engine: EmbeddedEngine
) -> None:
    recorded(tmp_path)
    [found] = engine.sandboxes()
    assert (found.status, found.url, found.image) == ("exited", "", "oci:x")
    assert b"".join(engine.logs("box", follow=True)) == b"said\n"
    engine.stop("box")
    engine.remove("box")
    assert engine.sandboxes() == []
    with pytest.raises(NotFoundError, match="graftbox ps"):
        engine.remove("box")


def test_a_running_one_is_removed_by_force_only(tmp_path: Path, engine: EmbeddedEngine) -> None:
    recorded(tmp_path, process=ProcessId.of(os.getpid()))
    with pytest.raises(Exception, match="is running"):
        engine.remove("box")
    assert engine.find("box") is not None


def test_one_that_runs_is_not_started_again(tmp_path: Path, engine: EmbeddedEngine) -> None:
    recorded(tmp_path, process=ProcessId.of(os.getpid()))
    assert engine.start_again("box").status == "running"


def test_what_cannot_be_started_again_says_why_and_stays(tmp_path: Path, engine: EmbeddedEngine) -> None:
    state = recorded(tmp_path)
    with pytest.raises(UnsupportedError, match="older version"):
        engine.start_again("box")
    spec = SandboxSpec("box", "secret", "oci:x", UnpackedImage(tmp_path / "gone", {}), None)
    replace(state, spec=spec.facts()).write(tmp_path / "sandboxes/box/state.json")
    with pytest.raises(NotFoundError, match="no longer in the cache"):
        engine.start_again("box")
    assert [sandbox.status for sandbox in engine.sandboxes()] == ["exited"]
    with pytest.raises(NotFoundError, match="graftbox ps"):
        engine.start_again("nobody")


def test_a_damaged_record_is_no_sandbox(tmp_path: Path, engine: EmbeddedEngine) -> None:
    recorded(tmp_path)
    (tmp_path / "sandboxes/box/state.json").write_text('{"name": "bo')
    assert engine.sandboxes() == []
    assert engine.find("box") is None


@pytest.mark.parametrize(
    "words",
    [
        "bwrap: No permissions to create a new namespace, likely because the kernel does not allow it.",
        "bwrap: setting up uid map: Permission denied",
        "bwrap: Creating new namespace failed: Operation not permitted",
    ],
)
def test_forbidden_namespaces_are_explained_with_the_switch_to_turn(words: str) -> None:
    error = _failure(words)
    assert isinstance(error, UnsupportedError)
    assert "sysctl" in str(error)
    assert "--engine docker" in str(error)
    assert words in str(error)


def test_other_failures_are_bubblewraps_own_words() -> None:
    assert isinstance(
        _failure("bwrap: Can't make overlay mount on /newroot: Invalid argument"), _NoOverlayError
    )
    error = _failure("bwrap: Can't find source path /gone: No such file or directory")
    assert isinstance(error, TransportError)
    assert "/gone" in str(error)


def test_a_bubblewrap_without_overlays_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho --bind SRC DEST\n")
    program.chmod(0o755)
    monkeypatch.setenv("GRAFTBOX_BWRAP", str(program))
    assert system_program() is None
    assert str(program) in capsys.readouterr().err
    program.write_text("#!/bin/sh\necho --overlay-src SRC\n")
    assert system_program() == [str(program)]
    monkeypatch.delenv("GRAFTBOX_BWRAP")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert system_program() is None


def test_what_a_server_said_that_ended_at_once_is_not_taken_for_bubblewraps() -> None:
    error = _failure("action-execution-server: --user-id must be a number\n")
    assert str(error).startswith("The sandbox ended before its server answered; it said:\n")
    assert str(error).endswith("must be a number")


@pytest.mark.parametrize("name", ["none", "."])
def test_a_bubblewrap_that_cannot_be_run_is_told_by_its_variable(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTBOX_BWRAP", str(tmp_path / name))
    with pytest.raises(ConfigurationError, match=r"GRAFTBOX_BWRAP is .* name a bubblewrap"):
        system_program()

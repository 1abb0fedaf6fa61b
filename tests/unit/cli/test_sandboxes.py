"""``graftbox ps``, ``start``, ``stop``, ``rm`` and ``logs`` on a machine without sandboxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from graftbox.cli.engines import choose
from graftbox.cli.sandboxes import logs, ps, rm, start, stop
from graftbox.errors import NotFoundError, TransportError, UnsupportedError
from graftbox.store import Store


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an empty cache and no daemon."""
    monkeypatch.setenv("GRAFTBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/none.sock")


def test_there_is_nothing_to_list() -> None:
    assert json.loads(CliRunner().invoke(ps, ["--json"]).stdout) == {"sandboxes": []}
    assert CliRunner().invoke(ps).stdout.split() == ["NAME", "ENGINE", "STATUS", "URL", "IMAGE"]


@pytest.mark.parametrize("command", [start, stop, rm, logs])
def test_an_unknown_name_is_an_error(command: object) -> None:
    error = CliRunner().invoke(command, ["nobody"]).exception  # type: ignore[arg-type]
    assert isinstance(error, NotFoundError)
    assert "'nobody'" in str(error)


def test_without_a_daemon_the_engine_is_embedded_and_docker_says_what_is_missing() -> None:
    assert choose("auto", Store()).name == "embedded"
    with pytest.raises(TransportError, match="--engine embedded"):
        choose("docker", Store())


def test_a_docker_that_graftbox_cannot_speak_to_is_left_aside_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://far")
    assert choose("auto", Store()).name == "embedded"
    assert "ssh://far" in capsys.readouterr().err
    with pytest.raises(UnsupportedError, match="ssh://far"):
        choose("docker", Store())

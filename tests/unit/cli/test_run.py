"""``graftbox run``'s options; what they do is in the integration tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from graftbox.cli import bases
from graftbox.cli.bases import Ready
from graftbox.cli.run import run, specification
from graftbox.errors import NotFoundError, UsageError
from graftbox.sandbox.spec import EngineImage, Network, SandboxSpec

READY = Ready(EngineImage("base"), Path("/tree"), "docker://base")


def parsed(*arguments: str) -> SandboxSpec:
    """The specification that a command line means."""
    with run.make_context("run", [*arguments, "base"]) as context:
        own: dict[str, Any] = dict(context.params)
    for name in ("base", "command", "engine", "deliver", "components", "detach", "as_json", "timeout"):
        del own[name]
    del own["plain_http"], own["ca"]
    return specification(READY, own)


def test_nothing_asked_is_the_image_as_it_is() -> None:
    found = parsed()
    assert found.name.startswith("box-")
    assert (found.user, found.working_dir, found.network, found.read_only) == (None, None, None, False)
    assert (found.env, found.volumes, found.tmpfs, found.cap_drop) == ((), (), (), ())
    assert found.tree == Path("/tree")


def test_locked_down_is_all_the_hardening_in_one_word() -> None:
    words = ["--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL"]
    words += ["--security-opt", "no-new-privileges", "--name", "box"]
    short, long = parsed("--locked-down", "--name", "box"), parsed(*words)
    assert short.key != long.key
    assert dataclasses.replace(short, key="") == dataclasses.replace(long, key="")
    assert short.network is Network.NONE
    assert parsed("--locked-down", "--tmpfs", "/run").tmpfs == ("/run",)
    assert parsed("--locked-down", "--network", "host").network is Network.HOST


def test_variables_come_from_the_option_or_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x y")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert parsed("-e", "A=1", "-e", "FROM_HERE", "-e", "NOT_HERE").env == (("A", "1"), ("FROM_HERE", "x y"))


def test_options_that_make_no_sense_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="cannot name"):
        parsed("--name", "no/slash")
    with pytest.raises(UsageError, match="does not exist"):
        parsed("-v", "/no/such/folder:/x")
    for option in ("--workdir", "--tmpfs"):
        with pytest.raises(UsageError, match=f"{option} 'src' must be an absolute path"):
            parsed(option, "src")
    for arguments in (
        ["--engine", "lxc", "base"],
        ["--detach", "base", "--", "ls"],
        [],
        ["--port", "0", "base"],
    ):
        assert CliRunner().invoke(run, arguments).exit_code == 2


def test_a_wrong_image_is_noticed_before_a_bundle_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: object) -> Path:
        pytest.fail("the bundle is asked for")

    monkeypatch.setattr(bases, "bundle_tree", build)
    monkeypatch.setenv("GRAFTBOX_CACHE", str(tmp_path))
    error = CliRunner().invoke(run, [f"oci:{tmp_path}/none", "--engine", "embedded"]).exception
    assert isinstance(error, NotFoundError)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
def test_a_time_is_a_number_of_seconds(seconds: str) -> None:
    done = CliRunner().invoke(run, ["scratch", "--timeout", seconds, "--", "true"])
    assert done.exit_code == 2
    assert "--timeout" in done.stderr


def test_a_folder_without_a_bundle_is_no_tree(tmp_path: Path) -> None:
    done = CliRunner().invoke(run, ["scratch", "--tree", str(tmp_path)])
    assert done.exit_code == 2
    assert "bundle path" in done.stderr

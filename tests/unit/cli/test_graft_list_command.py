"""graft --to-repo and --from, and tags, as commands: what is asked for wrongly, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from graftbox.cli import graft as command
from graftbox.cli.prune import prune
from graftbox.cli.tags import tags
from graftbox.errors import GraftboxError, UsageError
from graftbox.image.graft import Bundle
from graftbox.store import Store

NOBODY = "127.0.0.1:1/team/rt"


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Bundle, store: Store) -> None:
    """A machine on which a (small) bundle is built."""
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))
    monkeypatch.setattr(command, "bundles", lambda *_, **__: {"amd64": bundle})


def graft(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command.graft, list(arguments), input=stdin)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a"],
        ["--to-repo", NOBODY],
        ["--from", "-"],
        ["a", "b", "--to-repo", NOBODY],
        ["a", "--from", "-", "--to-repo", NOBODY],
        ["a", "--to-repo", NOBODY, "--tag", "x"],
        ["--from", "-", "--to-repo", NOBODY, "--jobs", "0"],
        ["--from", "-", "--to-repo", NOBODY, "--naming", "other"],
        ["a", "b", "--ca", "/nowhere.pem"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str]) -> None:
    done = graft(*arguments)
    assert done.exit_code == 2
    assert "Error" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "-", "--to-repo", f"{NOBODY}:1"], "no tag"),
        (["--from", "-", "--to-repo", NOBODY, "--shard", "5/4"], "shard"),
        (["--from", "/nowhere/list", "--to-repo", NOBODY], "/nowhere/list"),
        (["Not A Name", "--to-repo", NOBODY], "image name"),
    ],
)
def test_a_wrong_value_is_named(arguments: list[str], words: str) -> None:
    done = graft(*arguments)
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)


def test_each_base_of_a_list_has_a_line_and_the_end_is_told_on_standard_error() -> None:
    names = "# two\n\n127.0.0.1:1/a:1\nNot A Name\n"
    done = graft("--from", "-", "--to-repo", NOBODY, "--jobs", "2", stdin=names)
    assert done.exit_code == 1
    lines = {line["base"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {"127.0.0.1:1/a:1", "Not A Name"}
    assert {line["status"] for line in lines.values()} == {"failed"}
    assert "Cannot reach" in lines["127.0.0.1:1/a:1"]["error"]
    assert "2 images: 0 made, 0 were there, 2 failed" in done.stderr
    assert "Traceback" not in done.output


def test_an_empty_list_is_no_error() -> None:
    done = graft("--from", "-", "--to-repo", NOBODY)
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "0 images" in done.stderr


def test_a_single_base_raises_its_error() -> None:
    done = graft("127.0.0.1:1/a:1", "--to-repo", NOBODY)
    assert isinstance(done.exception, GraftboxError)


def test_tags_are_explained_in_words_and_as_json() -> None:
    told = CliRunner().invoke(tags, ["scratch"], catch_exceptions=False).stdout
    facts = json.loads(CliRunner().invoke(tags, ["scratch", "--json"], catch_exceptions=False).stdout)
    for kind in ("source", "lock", "versioned"):
        assert f"{facts[kind]} " in told
        assert f"{kind}: " in told
    assert facts["versioned"] == "oh_v0.1.0_scratch"
    inputs = {item["name"]: item["decides"] for item in facts["inputs"]}
    assert inputs["server code"] == ["source"]
    assert inputs["base digest"] == ["source", "lock"]
    assert inputs["base name"] == ["versioned"]
    other = json.loads(CliRunner().invoke(tags, ["scratch", "--user", "7", "--json"]).stdout)
    assert other["lock"] != facts["lock"]
    assert other["versioned"] == facts["versioned"]


def test_prune_wants_a_repository() -> None:
    assert CliRunner().invoke(prune, []).exit_code == 2
    done = CliRunner().invoke(prune, ["--repo", f"{NOBODY}:1"])
    assert isinstance(done.exception, UsageError)

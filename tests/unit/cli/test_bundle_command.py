from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from graftbox.cli.bundle import bundle
from graftbox.cli.status import Status
from graftbox.errors import NotFoundError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFTBOX_CACHE", str(tmp_path))
    return tmp_path


def test_show_lists_the_packages_before_anything_is_built(cache: Path) -> None:
    text = CliRunner().invoke(bundle, ["show", "--arch", "arm64"]).output
    assert "not built yet. Run `graftbox bundle build`" in text
    assert "\nbash  " in text
    facts = json.loads(CliRunner().invoke(bundle, ["show", "--arch", "arm64", "--json"]).output)
    assert facts["arch"] == "arm64"
    assert facts["digest"] is None
    assert {"name", "version", "file", "size"} == set(facts["packages"][0])


def test_verify_says_when_there_is_nothing_to_verify(cache: Path) -> None:
    result = CliRunner().invoke(bundle, ["verify"])
    assert isinstance(result.exception, NotFoundError)
    assert "Run `graftbox bundle build`" in str(result.exception)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_per_step() -> None:
    stream = io.StringIO()
    status = Status(stream)
    status.start("fetching 2 packages", 100)
    status.advance(50)
    status.done()
    assert stream.getvalue() == "graftbox: fetching 2 packages: 0.0 s\n"


def test_a_terminal_sees_how_far_it_is() -> None:
    stream = Terminal()
    status = Status(stream)
    status.start("fetching", 200)
    status.drawn = 0
    status.advance(50)
    status.done()
    assert "fetching … 25 %" in stream.getvalue()
    assert stream.getvalue().endswith("fetching: 0.0 s\n")

"""The doctor command: what it prints, and its exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from graftbox.cli.doctor import doctor
from graftbox.store import Store


@pytest.fixture(autouse=True)
def _own_cache(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, arguments, catch_exceptions=False)


def test_a_usable_image_exits_with_0(layout: Any) -> None:
    layout.image([{"bin/sh": b""}])
    done = run(f"oci:{layout.folder}:base", "--platform", "linux/amd64")
    assert done.exit_code == 0
    assert "ok shell         /bin/sh" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("usable")


def test_an_unusable_image_exits_with_1_and_says_why(layout: Any) -> None:
    layout.image([{"bin/sh": b""}], arch="s390x")
    done = run(f"oci:{layout.folder}:base", "--platform", "linux/amd64")
    assert done.exit_code == 1
    assert "NO platform" in done.stdout
    assert "linux/s390x" in done.stdout


def test_json_is_one_object(layout: Any) -> None:
    layout.image([{"bin/sh": b""}])
    found = json.loads(run(f"oci:{layout.folder}:base", "--platform", "amd64", "--json", "--quick").stdout)
    assert found["usable"] is True
    assert found["bytes_read"] == 0
    assert {"topic", "level", "text"} == set(found["findings"][0])

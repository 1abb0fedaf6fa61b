from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from graftbox import freezing
from graftbox.server import frozen


@pytest.fixture(scope="module")
def hook() -> dict[str, Any]:
    (folder,) = freezing.hook_folders()
    return runpy.run_path(f"{folder}/hook-graftbox.server.py")


def test_all_of_the_server_is_frozen_whoever_imports_it(hook: dict[str, Any]) -> None:
    code = Path(frozen.__file__).parent
    names = {
        ".".join(("graftbox.server", *path.relative_to(code).with_suffix("").parts)).removesuffix(".__init__")
        for path in code.rglob("*.py")
        if all(map(str.isidentifier, path.relative_to(code).with_suffix("").parts))
    }
    assert names <= set(hook["hiddenimports"])
    assert "graftbox.wire.actions" in hook["hiddenimports"]
    assert not [name for name in hook["hiddenimports"] if name.startswith("graftbox.bundle")]


def test_what_is_run_by_its_path_lies_there(hook: dict[str, Any]) -> None:
    places = {(Path(source).name, place) for source, place in hook["datas"]}
    assert ("keeper.py", "graftbox/server") in places
    assert ("bundled.py", "graftbox/server/kernel/guest") in places
    assert not [place for _, place in places if "__pycache__" in place]


def test_cells_find_the_whole_standard_library(hook: dict[str, Any]) -> None:
    assert {"json", "sqlite3", "xml.dom.minidom", "zoneinfo"} <= set(hook["hiddenimports"])
    assert not {"idlelib", "tkinter", "test"} & {name.partition(".")[0] for name in hook["hiddenimports"]}


def test_packages_bring_their_data(hook: dict[str, Any]) -> None:
    places = {place for _, place in hook["datas"]}
    assert any(place.startswith("h11-") and place.endswith(".dist-info") for place in places)
    assert "PyInstaller" in hook["excludedimports"]


def test_modules_that_have_no_name_are_there_as_files(hook: dict[str, Any]) -> None:
    """pip imports ``unicode17-0-0``, which no import statement can."""
    names = [Path(source).name for source, place in hook["datas"] if place.startswith("pip/")]
    assert [name for name in names if name.endswith(".py") and "-" in name]

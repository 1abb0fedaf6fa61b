from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import lock
from graftbox.bundle.lock import Lock, LockedArchitecture, LockedPackage, LockedWheel
from graftbox.bundle.recipe import Recipe
from graftbox.errors import FormatError, NotFoundError, StorageError

BASH = LockedPackage(
    "bash",
    "5.2",
    "debian",
    "pool/main/b/bash.deb",
    7,
    "a" * 64,
    "bash (5.2)",
    "2026-11-01T00:00:00Z",
    ("core",),
)
KERNEL = LockedWheel("ipykernel", "7", "ipykernel-7-py3-none-any.whl", 9, "b" * 64, ("jupyter",))
LOCK = Lock(
    "sha256:" + "c" * 64,
    {"trixie": "2026-11-01T00:00:00Z"},
    {"amd64": LockedArchitecture((dataclasses.replace(BASH, name="zsh"), BASH), (KERNEL,))},
)


def test_a_lock_survives_writing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.lock.json"
    LOCK.write(path)
    assert Lock.read(path).to_json() == LOCK.to_json() == path.read_bytes()
    assert [p.name for p in Lock.read(path).architecture("amd64").packages] == ["bash", "zsh"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.lock.json"]


def test_entries_are_those_of_the_asked_components() -> None:
    assert KERNEL in LOCK.entries("amd64")
    assert LOCK.entries("amd64", ["jupyter"]) == [KERNEL]
    with pytest.raises(NotFoundError, match="it has amd64"):
        LOCK.entries("riscv64")


def _first(document: Any) -> Any:
    return document["architectures"]["amd64"]["packages"][0]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: d.update(schema=2), "schema 1"),
        (lambda d: d.pop("recipe"), "'recipe' is missing"),
        (lambda d: _first(d).pop("version"), "'version' is missing"),
        (lambda d: _first(d).update(sha256="x"), "sha256 of 'bash'"),
        (lambda d: _first(d).update(size=-1), "size of 'bash'"),
        (lambda d: _first(d).update(path="../../etc/passwd"), "plain relative path"),
        (lambda d: _first(d).update(path="/etc/passwd"), "plain relative path"),
        (lambda d: _first(d).update(archive="ppa"), "archive of 'bash'"),
        (lambda d: _first(d).update(url="http://x"), "unknown key 'url'"),
        (lambda d: _first(d).update(components="core"), "components of 'bash'"),
        (lambda d: d.update(architectures=[]), "damaged"),
    ],
)
def test_a_damaged_lock_says_what_is_wrong_and_how_to_mend_it(
    damage: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    document = json.loads(LOCK.to_json())
    damage(document)
    with pytest.raises(FormatError) as caught:
        lock.parse(json.dumps(document).encode(), "my.lock.json")
    assert complaint in str(caught.value)
    assert "graftbox lock" in str(caught.value)


def test_half_a_lock_is_damaged() -> None:
    with pytest.raises(FormatError, match="damaged"):
        lock.parse(LOCK.to_json()[:100], "my.lock.json")


def test_no_lock_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="graftbox lock"):
        Lock.read(tmp_path / "none")


def test_a_full_disk_leaves_the_old_lock() -> None:
    with pytest.raises(StorageError, match="No space left"):
        _write_to_full_device()


def _write_to_full_device() -> None:
    from graftbox.store import storage_errors

    with storage_errors(Path("/dev/full")), Path("/dev/full").open("wb", buffering=0) as stream:
        stream.write(LOCK.to_json())


@pytest.mark.parametrize("name", ["openhands", "tools"])
def test_the_committed_locks_fit_their_recipes_and_name_no_address(name: str) -> None:
    recipe = Recipe.builtin(name)
    built_in = Lock.read(recipe.lock_path)
    assert built_in.recipe == recipe.resolution_digest
    assert set(built_in.architectures) == {"amd64", "arm64"}
    assert set(built_in.suites) == set(recipe.suites)
    assert b"://" not in built_in.to_json()
    for arch in built_in.architectures:
        names = [p.name for p in built_in.architecture(arch).packages]
        assert len(names) == len(set(names))
        for component in recipe.components.values():
            assert set(component.packages) <= set(names)
            assert not set(component.without) & set(names)

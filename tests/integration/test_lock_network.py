"""Locking and fetching from the real mirrors and the real package index that this machine is set up for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from graftbox.bundle import locking
from graftbox.bundle.fetch import fetch
from graftbox.bundle.lock import Lock
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sources import Sources
from graftbox.store import Store


@pytest.mark.parametrize("name", ["openhands", "tools"])
def test_a_built_in_recipe_locks_from_the_machines_own_sources(name: str, tmp_path: Path) -> None:
    recipe = Recipe.builtin(name)
    lock = locking.make(recipe, locking.Workshop(Store(tmp_path), Sources.find()))
    assert lock.recipe == recipe.resolution_digest
    for arch in ("amd64", "arm64"):
        locked = lock.architecture(arch)
        packages, wheels = ({entry.name for entry in some} for some in (locked.packages, locked.wheels))
        for component in recipe.components.values():
            assert set(component.packages) <= packages
            assert not set(component.without) & packages
            assert not set(component.without_wheels) & wheels
            assert bool(wheels) >= bool(component.wheels)
            assert {package.name for package in component.npm} <= {entry.name for entry in lock.entries(arch)}


def test_the_lock_in_use_can_be_fetched_for_both_architectures(tmp_path: Path) -> None:
    store, lock = Store(tmp_path), Lock.of(Recipe.builtin("openhands"))
    for arch in ("amd64", "arm64"):
        paths = fetch(lock.entries(arch), store, Sources.find())
        for entry, path in paths.items():
            data = path.read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size, entry.sha256)


def test_a_lock_from_which_nothing_is_gone_stays_as_it_is(tmp_path: Path) -> None:
    recipe = Recipe.builtin("tools")
    workshop = locking.Workshop(Store(tmp_path), Sources.find())
    fresh = locking.make(recipe, workshop)
    assert locking.changes(fresh, locking.update_missing(recipe, fresh, workshop)) == []

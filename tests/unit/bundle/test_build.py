from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from graftbox.bundle import own_code
from graftbox.bundle.build import Job, current
from graftbox.bundle.lock import Lock
from graftbox.bundle.manifest import Layer
from graftbox.bundle.recipe import Recipe
from graftbox.errors import NotFoundError
from graftbox.store import Store


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.of(arch="amd64", store=Store(tmp_path))


def test_nothing_is_current_in_an_empty_cache(tmp_path: Path) -> None:
    assert current("amd64", store=Store(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_saved_bundle_is_current_while_its_layers_are_there(job: Job) -> None:
    digest = job.store.put(b"layer")
    made = job.save([Layer("core", "core", digest, digest, 5, 5, 1)])
    assert current("amd64", store=job.store) == made
    assert current("arm64", store=job.store) is None
    job.store.blob_path(digest).write_bytes(b"lay")
    assert current("amd64", store=job.store) is None
    job.store.blob_path(digest).unlink()
    assert current("amd64", store=job.store) is None


def test_a_damaged_manifest_counts_as_none(job: Job) -> None:
    digest = job.store.put(b"layer")
    job.save([Layer("core", "core", digest, digest, 5, 5, 1)])
    job.path.write_text("{")
    assert current("amd64", store=job.store) is None


def test_layers_are_what_the_components_share_then_they_and_the_server_last(job: Job) -> None:
    base, *others = job.recipe.defaults
    names = job.layer_names
    shared = [name for name in names if "+" in name]
    assert names == [base, *shared, *others, "server"]
    assert shared == sorted(shared, key=lambda name: -name.count("+"))
    assert "browser+vscode" in shared


def test_the_base_is_part_of_every_bundle(tmp_path: Path) -> None:
    recipe = Recipe.builtin()

    def layers(*components: str) -> list[str]:
        return Job.of(arch="amd64", components=components, store=Store(tmp_path)).layer_names

    assert layers("core") == ["core", "server"]
    assert layers("mcp") == layers("core", "mcp") == ["core", "mcp", "server"]
    assert layers() == layers("default") == layers(*recipe.defaults)
    assert set(layers("default", "fonts")) - set(layers()) == {"fonts"}


def test_a_layer_is_the_same_whatever_other_components_are_chosen(job: Job) -> None:
    for name in job.recipe.components:
        alone = Job.of(arch="amd64", components=[name], store=job.store)
        assert {layer: alone.key(layer) for layer in alone.layer_names} == {
            layer: job.key(layer) for layer in alone.layer_names
        }


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_every_wheel_is_in_one_layer_that_comes_with_each_component_that_has_it(job: Job, arch: str) -> None:
    lock = Lock.of(job.recipe)
    for wheel in lock.architecture(arch).wheels:
        for component in wheel.components:
            alone = Job.of(arch=arch, components=[component], store=job.store)
            holding = [n for n in alone.layer_names if n != "server" and wheel in alone.entries(n)]
            assert len(holding) == 1, wheel


def test_the_server_layer_is_the_same_on_every_architecture(job: Job) -> None:
    other = dataclasses.replace(job, arch="arm64")
    assert other.key("server") == job.key("server")
    assert other.key("core") != job.key("core")


def test_a_change_of_staging_remakes_the_component_only(job: Job) -> None:
    core = dataclasses.replace(job.recipe.component("core"), stage={"folders": ["new"]})
    recipe = dataclasses.replace(job.recipe, components={"core": core})
    other = dataclasses.replace(job, recipe=recipe)
    assert other.key("core") != job.key("core")
    assert other.key("server") == job.key("server")


def test_an_edit_of_the_server_remakes_the_server_only(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = job.key("core"), job.key("server")
    digest = own_code.digest
    monkeypatch.setattr(
        own_code, "digest", lambda names: digest(names) + ("edited" if "server" in names else "")
    )
    assert job.key("core") == before[0]
    assert job.key("server") != before[1]


def test_every_file_that_decides_a_layer_is_part_of_its_key() -> None:
    """Whoever adds a module to the builder must add it to BUILDER."""
    assert len(own_code.files(own_code.BUILDER)) == len(own_code.BUILDER)
    folder = own_code.PACKAGE / "bundle"
    listed = {Path(name).stem for name in own_code.BUILDER}
    imported = {
        name
        for module in ("stage", "relocation", "bytecode", "layers")
        for line in (folder / f"{module}.py").read_text().splitlines()
        if line.startswith("from graftbox.bundle import ")
        for name in line.removeprefix("from graftbox.bundle import ").split(", ")
    }
    assert imported <= listed


def test_an_unknown_component_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no component 'nope'"):
        Job.of(arch="amd64", components=["core", "nope"], store=Store(tmp_path))


def test_an_architecture_without_lock_is_named(tmp_path: Path) -> None:
    recipe = Recipe.builtin()
    lock = dataclasses.replace(Lock.of(recipe), architectures={})
    with pytest.raises(NotFoundError, match="no architecture 'arm64'"):
        Job.of(recipe, "arm64", store=Store(tmp_path), lock=lock)

"""What the real bundle holds: nothing that no program needs, and a licence for everything."""

from __future__ import annotations

import json
import posixpath

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.integration.conftest import missing

from graftbox.bundle import build, elf, inventory, strip
from graftbox.bundle.content import Content, File, Link, files
from graftbox.bundle.lock import Lock
from graftbox.bundle.manifest import BundleManifest
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sbom import sbom
from graftbox.bundle.verify import read
from graftbox.store import Store


@pytest.fixture(scope="module")
def made() -> BundleManifest:
    found = build.current(store=Store())
    if found is None:
        missing("the built bundle (scripts/with-bundle)")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def layers(made: BundleManifest) -> dict[str, Content]:
    return {layer.name: read(layer, Store()) for layer in made.layers}


def test_every_path_has_one_spelling(layers: dict[str, Content]) -> None:
    # Docker refuses a layer that holds one file as a/b and as a/./b.
    paths = [path for content in layers.values() for path in content]
    assert [path for path in paths if path != posixpath.normpath(path)] == []


def test_every_program_and_library_is_stripped(layers: dict[str, Content]) -> None:
    content = {path: node for layer in layers.values() for path, node in layer.items()}
    before = dict(content)
    strip.strip(content)
    assert [path for path in content if content[path] != before[path]] == []
    assert sum(elf.is_elf(file.data) for _, file in files(content)) > 90


def test_every_package_in_the_bundle_has_its_licence_in_it(made: BundleManifest) -> None:
    store = Store()
    document = sbom(made, Lock.of(Recipe.builtin()), store).decode()
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(document) is None
    present = {
        row.package for row in inventory.rows(made, store) if not row.path.startswith("share/doc/")
    } - {inventory.OURS}
    known = {f"{one['name']} {one['version']}": one for one in json.loads(document)["components"]}
    assert present <= set(known)
    without = [
        name
        for name in sorted(present)
        if not any(item["name"] == "graftbox:licence-file" for item in known[name]["properties"])
        and not known[name].get("licenses")
    ]
    assert without == []


def test_every_debian_package_of_a_layer_is_in_its_list_of_sources(layers: dict[str, Content]) -> None:
    for name, content in layers.items():
        texts = [path for path in content if path.startswith("share/doc/") and path.endswith("/copyright")]
        if not texts:
            continue
        listed = content[f"share/doc/SOURCES.{name}"]
        assert isinstance(listed, File)
        for path in texts:
            assert f"\n{path.split('/')[2]} " in listed.data.decode(), path


def test_no_licence_text_is_there_twice_in_a_layer(layers: dict[str, Content]) -> None:
    for content in layers.values():
        texts = [content[path] for path in content if path.endswith("/copyright")]
        whole = [node.data for node in texts if isinstance(node, File)]
        assert len(whole) == len(set(whole))
        assert all(isinstance(node, File | Link) for node in texts)

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from graftbox.bundle import inventory, layers
from graftbox.bundle.content import Content, File, Folder, Link
from graftbox.bundle.manifest import BundleManifest
from graftbox.errors import NotFoundError
from graftbox.store import Store

CORE: Content = {
    "lib/big.so": File(bytes(range(256)) * 400, origin="libbig 1.0"),
    "lib/small.so": File(b"tiny", origin="libbig 1.0"),
    "bin/run": File(b"#!/openhands/libexec/dash\n", executable=True),
    "bin/alias": Link("run"),
    "workspace": Folder(),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def made(store: Store) -> BundleManifest:
    upper: Content = {"lib/more.py": File(b"x = 1\n" * 50, origin="more 2</script>")}
    parts = []
    for name, content in (("core", CORE), ("extra", upper)):
        parts.append(layers.write(name, name, content, store))
        inventory.record(parts[-1], content, store)
    return BundleManifest("amd64", "tree", "sha256:1", ("core", "extra"), tuple(parts))


def test_every_byte_of_a_layer_is_in_the_tree_once(made: BundleManifest, store: Store) -> None:
    for packages in (False, True):
        root = inventory.tree(inventory.rows(made, store), "/openhands", packages)
        assert root.size == sum(len(node.data) for node in CORE.values() if isinstance(node, File)) + 300
        assert root.files == 5
        assert list(root.children) == ["core", "extra"]


def test_compressed_shares_of_a_layer_add_up_to_its_blob(made: BundleManifest, store: Store) -> None:
    root = inventory.tree(inventory.rows(made, store), "/openhands")
    for layer in made.layers:
        assert abs(root.children[layer.name].compressed - layer.compressed_size) <= layer.files


def test_the_tree_can_be_by_package(made: BundleManifest, store: Store) -> None:
    core = inventory.tree(inventory.rows(made, store), "/openhands", packages=True).children["core"]
    assert {name: child.files for name, child in core.children.items()} == {"graftbox": 2, "libbig 1.0": 2}


def test_lines_go_as_deep_as_asked_and_sum_up_what_is_small(made: BundleManifest, store: Store) -> None:
    root = inventory.tree(inventory.rows(made, store), "/openhands")
    assert [text for text, _ in inventory.lines(root, 0)] == ["/openhands"]
    small = [text for text, _ in inventory.lines(root.children["core"], 2, least=1000)]
    assert small == [
        "core",
        "├── lib",
        "│   ├── big.so",
        "│   └── small.so",
        "└── bin",
        "    └── (2 smaller)",
    ]


def test_json_has_the_largest_first_and_no_more_levels_than_asked(made: BundleManifest, store: Store) -> None:
    facts = inventory.tree(inventory.rows(made, store), "/openhands").facts(2)
    core = facts["children"][0]  # type: ignore[index]  # facts are plain JSON
    assert [child["name"] for child in core["children"]] == ["lib", "bin"]
    assert "children" not in core["children"][0]


def test_the_page_is_one_file_with_all_data_and_no_address(made: BundleManifest, store: Store) -> None:
    text = inventory.page(made, store).decode()
    assert "http" not in text
    assert "src=" not in text
    assert text.count("</script>") == 1
    found = re.search(r"^const data = (.*);$", text, re.MULTILINE)
    assert found
    data = json.loads(found[1])
    assert data["layers"] == ["core", "extra"]
    assert {row[0]: row[1] for row in data["files"]}["lib/big.so"] == 256 * 400
    assert "more 2</script>" in data["packages"]


def test_a_layer_that_nobody_has_written_down_is_to_be_built_again(
    made: BundleManifest, store: Store
) -> None:
    for place in (store.root / "inventories").iterdir():
        place.unlink()
    with pytest.raises(NotFoundError, match="bundle build"):
        list(inventory.rows(made, store))

"""Whole images become folders in the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftbox.errors import GraftboxError, UnsupportedError
from graftbox.image.graft import BUNDLE, LAYERS, Bundle, Carried, carried, mark
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.unpack import chain_id, unpacked
from graftbox.store import Store


def test_an_image_is_unpacked_once(layout: Any, store: Store) -> None:
    layout.image([{"a": b"1"}, {"b": b"2"}], process={"Env": ["A=b"], "User": "7", "Cmd": ["x"]})
    reference = parse(f"oci:{layout.folder}:base")
    first = unpacked(reference, store)
    assert sorted(path.name for path in first.rootfs.iterdir()) == ["a", "b"]
    assert (first.config.env, first.config.user, first.config.cmd) == (("A=b",), "7", ("x",))
    assert first.config.working_dir == "/"
    for path in (layout.folder / "blobs/sha256").iterdir():
        if path.stat().st_size < 200:
            path.write_bytes(b"")
    assert unpacked(reference, store) == first


def test_images_with_the_same_layers_share_one_folder(layout: Any, store: Store) -> None:
    layout.image([{"a": b"1"}], tag="one")
    layout.image([{"a": b"1"}], tag="two", process={"Cmd": ["other"]})
    one, two = (unpacked(parse(f"oci:{layout.folder}:{tag}"), store) for tag in ("one", "two"))
    assert one.rootfs == two.rootfs
    assert one.digest != two.digest


def test_scratch_is_an_empty_folder(store: Store) -> None:
    assert list(unpacked(parse("scratch"), store).rootfs.iterdir()) == []


def test_a_damaged_layer_leaves_nothing(layout: Any, store: Store) -> None:
    manifest = layout.image([{"a": b"1" * 1000}, {"b": b"2" * 1000}])
    path = layout.folder / "blobs/sha256" / manifest.layers[1].digest.removeprefix("sha256:")
    good = path.read_bytes()
    path.write_bytes(good[:-9] + b"damaged!!")
    with pytest.raises(GraftboxError):
        unpacked(parse(f"oci:{layout.folder}:base"), store)
    assert list((store.root / "tmp").iterdir()) == []
    assert not (store.root / "rootfs").exists()
    path.write_bytes(good)
    assert unpacked(parse(f"oci:{layout.folder}:base"), store).rootfs.is_dir()


def test_the_platform_is_chosen_from_an_index(layout: Any, store: Store) -> None:
    children = {
        "linux/arm64": layout.image([{"arm": b""}], tag=None, arch="arm64"),
        "linux/amd64": layout.image([{"amd": b""}], tag=None),
    }
    layout.index(children)
    reference = parse(f"oci:{layout.folder}:base")
    assert [p.name for p in unpacked(reference, store, arch="arm64").rootfs.iterdir()] == ["arm"]
    with pytest.raises(UnsupportedError, match="linux/arm64, linux/amd64"):
        unpacked(reference, store, arch="s390x")


@pytest.mark.parametrize("form", ["oci-archive:{0}:x", "docker-archive:{0}:a/b:1"])
def test_archives_are_unpacked_too(
    form: str, layout: Any, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    layout.image([{"a": b"1"}])
    archive = form.format(tmp_path / "a.tar")
    graft_image(parse(f"oci:{layout.folder}:base"), parse(archive), {"amd64": bundle}, store)
    root = unpacked(parse(archive), store, arch="amd64").rootfs
    assert (root / "a").read_bytes() == b"1"
    assert (root / "openhands/core").is_file()


def test_an_images_own_bundle_is_left_out_where_it_is_not_wanted(
    layout: Any, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    layout.image([{"a": b"1"}], process={"User": "7"})
    base, grafted = parse(f"oci:{layout.folder}:base"), parse(f"oci:{tmp_path / 'out'}:run")
    graft_image(base, grafted, {"amd64": bundle}, store)
    asked = []

    def keeps(carried: Carried) -> bool:
        asked.append(carried)
        return len(asked) > 1

    without = unpacked(grafted, store, arch="amd64", keeps=keeps)
    assert without.rootfs == unpacked(base, store, arch="amd64", keeps=keeps).rootfs
    assert (without.own_bundle, without.config.user) == (False, "7")
    assert [(one.digest, one.components, one.flavor) for one in asked] == [(bundle.digest, ("core",), "tree")]
    whole = unpacked(grafted, store, arch="amd64", keeps=keeps)
    assert whole.own_bundle
    assert (whole.rootfs / "openhands/core").is_file()


def test_a_bundles_layers_are_left_out_from_below_others_too(
    bundle: Bundle,
) -> None:
    diff_ids = [layer.diff_id for layer in bundle.layers]
    labels = {BUNDLE: "sha256:x", LAYERS: mark(diff_ids)}
    rootfs = {"diff_ids": ["sha256:below", *diff_ids, "sha256:above"]}
    config = {"config": {"Labels": labels}, "rootfs": rootfs}
    found = carried(json.dumps(config).encode())
    assert found is not None
    assert found.layers == slice(1, 3)
    labels[LAYERS] = mark(["sha256:other"])
    assert carried(json.dumps(config).encode()) is None


def test_a_chain_id_is_the_specs() -> None:
    # sha256("sha256:a sha256:b"), as in image-spec config.md.
    import hashlib

    one, two = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    assert chain_id([one]) == "a" * 64
    assert chain_id([one, two]) == hashlib.sha256(f"{one} {two}".encode()).hexdigest()

"""The bundle as an ordinary image."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graftbox.errors import UnsupportedError
from graftbox.image.bundle_image import push_bundle
from graftbox.image.graft import BUNDLE, Bundle
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.store import Store


def stored(folder: Path, digest: str) -> Mapping[str, Any]:
    found = json.loads((folder / "blobs/sha256" / digest[7:]).read_bytes())
    assert isinstance(found, dict)
    return found


def test_every_architecture_is_in_one_index(
    store: Store, bundle: Bundle, arm_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = push_bundle({"arm64": arm_bundle, "amd64": bundle}, parse(f"oci:{out}:1"), store, tags=["2"])
    assert report.platforms == ("linux/amd64", "linux/arm64")
    assert report.tags == ("1", "2")
    index = stored(out, report.digest)
    assert index["annotations"][BUNDLE] == f"{bundle.digest},{arm_bundle.digest}"
    for entry, made in zip(index["manifests"], (bundle, arm_bundle), strict=True):
        manifest = stored(out, entry["digest"])
        assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in made.layers]
        config = stored(out, manifest["config"]["digest"])
        assert config["architecture"] == entry["platform"]["architecture"] == made.arch


def test_one_architecture_is_the_graft_of_nothing(store: Store, bundle: Bundle, tmp_path: Path) -> None:
    pushed = push_bundle({"amd64": bundle}, parse(f"oci:{tmp_path / 'a'}:1"), store)
    grafted = graft_image(parse("scratch"), parse(f"oci:{tmp_path / 'b'}:1"), {"amd64": bundle}, store)
    assert pushed.digest == grafted.digest


def test_an_archive_takes_the_one_that_this_machine_runs(
    store: Store, bundle: Bundle, arm_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftbox.image.bundle_image.machine_architecture", lambda: "arm64")
    target = parse(f"docker-archive:{tmp_path / 'a.tar'}:team/bundle:1")
    both = {"amd64": bundle, "arm64": arm_bundle}
    assert push_bundle(both, target, store).platforms == ("linux/arm64",)
    with tarfile.open(tmp_path / "a.tar") as tar:
        (listed,) = json.load(tar.extractfile("manifest.json") or pytest.fail("no manifest.json"))
    assert listed["RepoTags"] == ["team/bundle:1"]
    monkeypatch.setattr("graftbox.image.bundle_image.machine_architecture", lambda: "s390x")
    with pytest.raises(UnsupportedError, match="--arch"):
        push_bundle(both, target, store)

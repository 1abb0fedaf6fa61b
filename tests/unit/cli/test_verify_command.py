"""The verify command: what it prints and what it exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.cli.graft import as_image_bundle
from graftbox.cli.verify import verify
from graftbox.image.graft import Bundle
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.store import Store


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch, store: Store, bundle: Bundle, layout: Any, tmp_path: Path) -> str:
    """A grafted image, on a machine whose cache knows the bundle."""
    layers = [
        Layer(one.name, one.component, one.digest, one.diff_id, one.size, one.compressed_size, 2)
        for one in bundle.layers
    ]
    manifest = BundleManifest("amd64", "tree", "sha256:lock", ("core",), tuple(layers))
    (store.folder("bundles", "amd64") / "x.json").write_bytes(manifest.to_json())
    (store.folder("bundles", "amd64") / "y.json").write_bytes(b"damaged")
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))
    layout.image([{"etc/name": b"base"}], process={"Env": ["A=b"]})
    name = f"oci:{tmp_path / 'out'}:run"
    known = {"amd64": as_image_bundle(manifest)}
    graft_image(
        parse(f"oci:{layout.folder}:base"), parse(name), known, store, user="8", platform="linux/amd64"
    )
    return name


def test_what_is_proved_is_said(image: str, layout: Any) -> None:
    done = CliRunner().invoke(verify, [image, "--base", f"oci:{layout.folder}:base", "--layers"])
    assert done.exit_code == 0, done.output
    assert "exactly base + bundle" in done.output
    assert "1 layers of the base, 2 of the bundle" in done.output
    assert "user 8" in done.output


def test_json_names_each_difference_and_the_exit_code_is_1(image: str, layout: Any) -> None:
    layout.image([{"etc/name": b"other"}], tag="other")
    done = CliRunner().invoke(verify, [image, "--base", f"oci:{layout.folder}:other", "--json"])
    assert done.exit_code == 1
    facts = json.loads(done.output)
    assert facts["ok"] is False
    assert [one["where"] for one in facts["platforms"][0]["differences"]] == ["base"]
    done = CliRunner().invoke(verify, [image, "--base", f"oci:{layout.folder}:other"])
    assert "NOT base + bundle: 1 difference." in done.output

"""Where a sandbox's files and its bundle come from on the embedded engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import known
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.cli import bases
from graftbox.image.graft import Bundle
from graftbox.image.place import graft_image
from graftbox.image.platforms import machine_architecture
from graftbox.image.reference import parse
from graftbox.sandbox.engines.embedded import EmbeddedEngine
from graftbox.sandbox.spec import UnpackedImage
from graftbox.store import Store

ARCH = machine_architecture()


def manifest(bundle: Bundle) -> BundleManifest:
    """What the bundle's own side says of it."""
    layers = [
        Layer(one.name, one.component, one.digest, one.diff_id, one.size, one.compressed_size, 2)
        for one in bundle.layers
    ]
    return BundleManifest(ARCH, "tree", "sha256:lock", ("core",), tuple(layers))


@pytest.fixture
def grafted(layout: Any, store: Store, bundle: Bundle, tmp_path: Path) -> str:
    """An image that carries the bundle, under the digest that `manifest` gives it."""
    layout.image([{"a": b"1"}], arch=ARCH, process={"Cmd": ["serve"]})
    same = Bundle(ARCH, manifest(bundle).digest, "0.1.0", ("core",), bundle.layers)
    target = f"oci:{tmp_path / 'grafted'}:run"
    base = parse(f"oci:{layout.folder}:base")
    graft_image(base, parse(target), {ARCH: same}, store, keep_entrypoint=True)
    return target


def prepared(image: str, store: Store, components: Sequence[str] = ()) -> tuple[bases.Ready, UnpackedImage]:
    engine = EmbeddedEngine(store, lambda: ["bwrap"])
    ready = bases.prepare(engine, image, "mount", components, None, store)
    assert isinstance(ready.base, UnpackedImage)
    return ready, ready.base


def test_an_image_that_carries_this_bundle_gets_no_second_copy_of_it(
    grafted: str, store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(known, "current", lambda *_, **__: manifest(bundle))
    ready, base = prepared(grafted, store)
    assert [path.name for path in base.rootfs.iterdir()] == ["a"]
    assert ready.tree is not None
    assert (ready.tree / "openhands/core").is_file()
    assert capfd.readouterr().err == ""


def test_another_bundle_takes_the_place_of_the_images_own_and_says_so(
    grafted: str, store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    other = Bundle(ARCH, "", "", ("core",), bundle.layers[:1])
    monkeypatch.setattr(known, "current", lambda *_, **__: manifest(other))
    ready, base = prepared(grafted, store)
    assert not (base.rootfs / "openhands").exists()
    assert ready.tree is not None
    assert "takes its place" in capfd.readouterr().err


def test_where_no_bundle_is_built_the_images_own_is_used(
    grafted: str, store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(known, "current", lambda *_, **__: None)
    ready, base = prepared(grafted, store, ["core"])
    assert ready.tree is None
    assert (base.rootfs / "openhands/core").is_file()
    assert json.dumps(base.config["Entrypoint"]) == '["/openhands/bin/action-execution-server"]'
    assert not base.config["Cmd"]
    assert f"own bundle {manifest(bundle).digest[7:19]} (core) is used" in capfd.readouterr().err

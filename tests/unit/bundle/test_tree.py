from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.bundle import layers
from graftbox.bundle.content import Content, File, Folder, Link
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.tree import unpacked
from graftbox.errors import NotFoundError
from graftbox.store import Store

CORE: Content = {
    "bin/run": File(b"#!", executable=True),
    "lib/data": File(b"data"),
    "lib/link": Link("../bin/run"),
    "lib/nowhere": Link("/openhands/none"),
    "workspace": Folder(),
}


def bundle(*made: Layer) -> BundleManifest:
    return BundleManifest("amd64", "tree", "sha256:" + "1" * 64, tuple(layer.name for layer in made), made)


def test_a_tree_has_the_files_of_all_its_layers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    core = layers.write("core", "core", CORE, store)
    server = layers.write("server", "core", {"lib/server/code": File(b"code")}, store)
    root = unpacked(bundle(core, server), store) / "openhands"
    assert {str(path.relative_to(root)) for path in root.rglob("*")} == {
        "bin", "bin/run", "lib", "lib/data", "lib/link", "lib/nowhere", "lib/server", "lib/server/code",
        "workspace",
    }  # fmt: skip
    assert (root / "lib/link").read_bytes() == b"#!"
    assert str((root / "lib/nowhere").readlink()) == "/openhands/none"
    modes = {path: oct((root / path).stat().st_mode & 0o7777) for path in ("bin/run", "lib/data", "lib")}
    assert modes == {"bin/run": "0o755", "lib/data": "0o644", "lib": "0o755"}


def test_bundles_share_the_files_of_the_layers_that_they_share(tmp_path: Path) -> None:
    store = Store(tmp_path)
    core = layers.write("core", "core", CORE, store)
    codes = [layers.write("server", "core", {"code": File(text)}, store) for text in (b"old", b"new")]
    one, other = (unpacked(bundle(core, code), store) / "openhands" for code in codes)
    assert (one / "lib/data").samefile(other / "lib/data")
    assert [(root / "code").read_bytes() for root in (one, other)] == [b"old", b"new"]


def test_a_layer_that_is_gone_leaves_no_half_tree(tmp_path: Path) -> None:
    store = Store(tmp_path)
    core, server = (layers.write(name, "core", {name: File(b"")}, store) for name in ("core", "server"))
    store.blob_path(server.digest).unlink()
    with pytest.raises(NotFoundError, match="graftbox bundle build"):
        unpacked(bundle(core, server), store)
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["layers"]

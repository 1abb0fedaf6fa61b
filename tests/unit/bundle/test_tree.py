from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graftbox.bundle import compression, layers
from graftbox.bundle.content import Content, File, Folder, Link
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.tree import unpacked
from graftbox.errors import FormatError, NotFoundError
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


@pytest.mark.parametrize("form", compression.FORMS)
def test_files_of_any_size_are_unpacked_as_they_were(tmp_path: Path, form: str) -> None:
    store = Store(tmp_path)
    noise = random.Random(1).randbytes(4099)
    # Around the size of a chunk of the tar, a piece that is written, and a tar's block.
    sizes = (0, 1, 511, 512, 513, 2**20 - 1, 2**20, 2**20 + 1, 2**22 - 512, 2**22, 2**22 + 1, 9_000_001)
    content: Content = {f"lib/{size}": File((noise * 3000)[:size]) for size in sizes}
    # What looks like the beginning of a layer.
    content["lib/packed"] = File(store.blob_path(layers.write("one", "one", CORE, store).digest).read_bytes())
    made = layers.write("core", "core", content, store, form)
    root = unpacked(bundle(made), store) / "openhands"
    assert {path.name for path in root.iterdir()} == {"lib"}
    for path, node in content.items():
        assert isinstance(node, File)
        assert (root / path).read_bytes() == node.data, path
        assert (root / path).stat().st_mtime == layers.MTIME


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-4] + bytes(4),
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:1000] + bytes(1000) + data[2000:],
    ],
    ids=["empty", "cut off", "another size", "no gzip", "zeros"],
)
def test_a_damaged_layer_is_named_and_leaves_no_half_tree(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    store = Store(tmp_path)
    noise = File(random.Random(1).randbytes(5_000_000))
    core, other = (layers.write(name, "core", {name: noise}, store) for name in ("core", "other"))
    blob = store.blob_path(core.digest)
    blob.write_bytes(damage(blob.read_bytes()))
    with pytest.raises(FormatError, match=f"{core.digest[7:]} is damaged.*Delete it and run"):
        unpacked(bundle(core, other), store)
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["layers"]
    assert list((tmp_path / "tmp").iterdir()) == []


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from graftbox.bundle import manifest, tree, unpacking
from graftbox.store import Store

place, placed = unpacking._place, []

def interrupted(archive, member, path):
    place(archive, member, path)
    placed.append(path)
    if len(placed) == 10:
        os.kill(os.getpid(), signal.SIGINT)

unpacking._place = interrupted
made = manifest.parse(Path(sys.argv[2]).read_bytes(), "test")
try:
    tree.unpacked(made, Store(Path(sys.argv[1])))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_leaves_no_half_tree(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    many: Content = {f"lib/{number}": File(b"data") for number in range(3000)}
    made = [layers.write(name, "core", {name: File(b""), **many}, store) for name in ("core", "other")]
    manifest = tmp_path / "bundle.json"
    manifest.write_bytes(bundle(*made).to_json())
    command = [sys.executable, "-c", INTERRUPTED, str(store.root), str(manifest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
    assert [path.name for path in (store.root / "trees").iterdir()] == ["layers"]
    assert list((store.root / "tmp").iterdir()) == []
    unpacked(bundle(layers.write("core", "core", CORE, store)), store)

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from graftbox.bundle import layers
from graftbox.bundle.content import Content, File, Folder, Link
from graftbox.bundle.manifest import Layer
from graftbox.store import Store

CONTENT: Content = {
    "bin/run": File(b"#!/openhands/libexec/dash\n", executable=True),
    "lib/a.so": File(os.urandom(64) * 300_000),
    "lib/" + "long/" * 40 + "name": File(b"x"),
    "l": Link("lib/locale"),
    "workspace": Folder(),
    "share/ä": File(b""),
}


def members(store: Store, layer: Layer) -> list[tarfile.TarInfo]:
    data = gzip.decompress(store.blob_path(layer.digest).read_bytes())
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer.diff_id
    assert len(data) == layer.size
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


def test_a_layer_is_a_tar_that_others_can_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = layers.write("core", "core", CONTENT, store)
    found = {member.name: member for member in members(store, layer)}
    folders = [name for name, member in found.items() if member.isdir()]
    assert list(found)[: len(folders)] == folders
    assert folders[:2] == ["openhands", "openhands/bin"]
    assert next(name for name in found if name not in folders) == "openhands/bin/run"
    assert found["openhands/bin/run"].mode == 0o755
    assert found["openhands/lib/a.so"].mode == 0o644
    assert found["openhands/lib/a.so"].size == 64 * 300_000
    assert found["openhands/l"].linkname == "lib/locale"
    assert found["openhands/workspace"].isdir()
    assert "openhands/share/ä" in found
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {
        (0, 0, "", "", layers.MTIME)
    }
    assert layer.files == 5
    assert layer.compressed_size == store.blob_path(layer.digest).stat().st_size


def test_a_folder_comes_before_what_it_holds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content: Content = {"a/b/c": File(b""), "a-b": File(b""), "a.c/d": File(b"")}
    names = [member.name for member in members(store, layers.write("x", "x", content, store))]
    for name in names[1:]:
        assert name.rpartition("/")[0] in names[: names.index(name)]


@given(st.permutations(sorted(CONTENT)))
def test_the_order_of_making_leaves_no_trace(order: list[str]) -> None:
    small = {path: node for path, node in CONTENT.items() if path != "lib/a.so"}
    expected = b"".join(layers.tar(small))
    assert b"".join(layers.tar({path: small[path] for path in order if path in small})) == expected


def test_the_same_content_gives_the_same_blob(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "1"), Store(tmp_path / "2")
    assert layers.write("core", "core", CONTENT, one) == layers.write("core", "core", CONTENT, two)


@given(st.lists(st.integers(0, 3_000_000), max_size=6))
def test_compression_keeps_every_byte(sizes: list[int]) -> None:
    pieces = [bytes([index]) * size for index, size in enumerate(sizes)]
    joined = b"".join(pieces)
    assert gzip.decompress(b"".join(layers.compressed(pieces))) == joined

"""The reader here is written from the format's description alone and shares no code with the writer."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftbox.bundle import estargz, layers
from graftbox.bundle.content import Content, File, Folder, Link
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.tree import unpacked
from graftbox.bundle.verify import read
from graftbox.errors import FormatError
from graftbox.store import Store

CONTENT: Content = {
    "bin/run": File(b"#!/openhands/libexec/dash\n", executable=True),
    "bin/empty": File(b""),
    "lib/large": File(random.Random(5).randbytes(9 << 20)),
    "lib/exact": File(bytes(8 << 20)),
    "lib/" + "long/" * 40 + "name": File(b"x"),
    "l": Link("lib/locale"),
    "workspace": Folder(),
    "share/ä": File(b"\0" * 512),
}
FOOTER = 51


def packed(content: Content, folder: Path) -> tuple[Layer, bytes]:
    store = Store(folder)
    layer = layers.write("core", "core", content, store, "estargz")
    return layer, store.blob_path(layer.digest).read_bytes()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def toc_of(blob: bytes) -> tuple[dict[str, Any], bytes, int]:
    """The table, its bytes and where its gzip member begins, as a snapshotter finds them."""
    footer = blob[-FOOTER:]
    assert gzip.decompress(footer) == b""
    found = re.fullmatch(rb"\x1f\x8b\x08\x04.{6}\x1a\0SG\x16\0([0-9a-f]{16})STARGZ.{13}", footer, re.DOTALL)
    assert found
    offset = int(found[1], 16)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob[offset:-FOOTER]))) as archive:
        assert archive.getnames() == ["stargz.index.json"]
        member = archive.extractfile("stargz.index.json")
        assert member is not None
        data = member.read()
    return json.loads(data), data, offset


def member_at(blob: bytes, offset: int) -> bytes:
    """The one gzip member that begins here, unpacked."""
    inflate = zlib.decompressobj(31)
    data = inflate.decompress(blob[offset:])
    assert inflate.eof
    return data


def files_by_toc(blob: bytes) -> dict[str, bytes]:
    """Every regular file, fetched by the table's offsets and checked against its digests only."""
    toc, _, end = toc_of(blob)
    assert toc["version"] == 1
    data = [entry for entry in toc["entries"] if entry.get("offset") is not None]
    assert [entry["offset"] for entry in data] == sorted({entry["offset"] for entry in data})
    assert all(0 < entry["offset"] < end for entry in data)
    found: dict[str, bytes] = {}
    for index, entry in enumerate(toc["entries"]):
        if entry["type"] == "reg":
            found[entry["name"]], size, digest = b"", entry.get("size", 0), entry.get("digest")
        if entry["type"] not in {"reg", "chunk"} or not size:
            continue
        done = found[entry["name"]]
        assert entry.get("chunkOffset", 0) == len(done)
        length = entry.get("chunkSize") or size - len(done)
        chunk = member_at(blob, entry["offset"])[:length]
        assert sha256(chunk) == entry["chunkDigest"], index
        found[entry["name"]] = done + chunk
        if not entry.get("chunkSize"):
            assert len(found[entry["name"]]) == size
            assert sha256(found[entry["name"]]) == digest
    return found


def test_every_file_can_be_fetched_by_its_line_in_the_table(tmp_path: Path) -> None:
    layer, blob = packed(CONTENT, tmp_path)
    found = files_by_toc(blob)
    assert found.pop(".no.prefetch.landmark") == b"\x0f"
    assert found == {
        f"openhands/{path}": node.data for path, node in CONTENT.items() if isinstance(node, File)
    }
    assert sha256(toc_of(blob)[1]) == layer.toc


def test_it_is_an_ordinary_gzip_layer_for_everybody_else(tmp_path: Path) -> None:
    layer, blob = packed(CONTENT, tmp_path)
    plain = gzip.decompress(blob)
    assert (sha256(blob), sha256(plain)) == (layer.digest, layer.diff_id)
    assert (len(blob), len(plain)) == (layer.compressed_size, layer.size)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = archive.getmembers()
    with tarfile.open(fileobj=io.BytesIO(b"".join(layers.tar(CONTENT)))) as archive:
        ordinary = archive.getmembers()
    assert [members[0].name, members[-1].name] == [".no.prefetch.landmark", "stargz.index.json"]
    assert [m.get_info() for m in members[1:-1]] == [m.get_info() for m in ordinary]


def test_the_table_says_of_each_member_what_the_tar_says(tmp_path: Path) -> None:
    _, blob = packed(CONTENT, tmp_path)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob))) as archive:
        members = archive.getmembers()[:-1]
    entries = [entry for entry in toc_of(blob)[0]["entries"] if entry["type"] != "chunk"]
    kinds = {"reg": "isreg", "dir": "isdir", "symlink": "issym"}
    for entry, member in zip(entries, members, strict=True):
        assert entry["name"] == member.name + "/" * member.isdir()
        assert getattr(member, kinds[entry["type"]])()
        assert (entry["mode"], entry["uid"], entry["gid"]) == (member.mode, member.uid, member.gid)
        assert entry.get("linkName", "") == member.linkname
        assert entry.get("size", 0) == member.size
        assert entry["modtime"] == "2000-01-01T00:00:00Z"


def test_the_same_content_gives_the_same_estargz_blob(tmp_path: Path) -> None:
    assert packed(CONTENT, tmp_path / "1") == packed(CONTENT, tmp_path / "2")


@given(st.lists(st.binary(max_size=1500), max_size=5), st.integers(1, 700))
def test_any_sizes_of_files_and_chunks_can_be_fetched(contents: list[bytes], chunk: int) -> None:
    def entry(number: int, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(f"f{number}")
        info.size = len(data)
        return info, data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estargz, "CHUNK", chunk)
        archive = estargz.Archive(map(entry, range(9), contents), gzip.compress, 0)
        blob = b"".join(archive.blob())
    found = files_by_toc(blob)
    del found[".no.prefetch.landmark"]
    assert found == {f"f{number}": data for number, data in enumerate(contents)}
    assert archive.diff_id == sha256(gzip.decompress(blob))
    assert archive.compressed_size == len(blob)


def test_verify_and_path_see_the_bundle_only(tmp_path: Path) -> None:
    layer, _ = packed(CONTENT, tmp_path)
    store = Store(tmp_path)
    found = read(layer, store)
    assert {path for path in found if not isinstance(found[path], Folder)} == CONTENT.keys() - {"workspace"}
    made = BundleManifest("amd64", "tree", "sha256:" + "1" * 64, ("core",), (layer,))
    assert [path.name for path in unpacked(made, store).iterdir()] == ["openhands"]


def test_verify_notices_another_table(tmp_path: Path) -> None:
    layer, _ = packed({"a": File(b"a")}, tmp_path)
    other = Layer(**{**layer.facts, "toc": "sha256:" + "0" * 64})
    with pytest.raises(FormatError, match="table of contents"):
        read(other, Store(tmp_path))

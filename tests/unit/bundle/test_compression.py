from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import compression, layers
from graftbox.bundle.build import Job
from graftbox.bundle.content import Content, File, Folder
from graftbox.bundle.manifest import BundleManifest, Layer, parse
from graftbox.bundle.tree import unpacked
from graftbox.bundle.verify import read
from graftbox.errors import FormatError, UnsupportedError, VerificationError
from graftbox.image import layer as image_layer
from graftbox.store import Store

CONTENT: Content = {"bin/run": File(b"#!" * 3_000_000, executable=True), "share/a": File(b"a")}


def test_a_gzip_layer_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = layers.write("core", "core", CONTENT, store)
    assert layer.diff_id == "sha256:" + hashlib.sha256(b"".join(layers.tar(CONTENT))).hexdigest()
    assert sorted(layer.facts) == [
        "component", "compressed_size", "diff_id", "digest", "files", "name", "size"
    ]  # fmt: skip
    assert Layer(**layer.facts) == layer


@pytest.mark.parametrize("form", compression.FORMS)
def test_each_form_is_written_alike_twice_and_read_everywhere(form: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "1")
    layer = layers.write("core", "core", CONTENT, store, form)
    assert layers.write("core", "core", CONTENT, Store(tmp_path / "2"), form) == layer
    blob = store.blob_path(layer.digest).read_bytes()
    pieces = [blob[start : start + 100_000] for start in range(0, len(blob), 100_000)]
    sha = hashlib.sha256(b"".join(image_layer.decompressed(iter(pieces))))
    assert "sha256:" + sha.hexdigest() == layer.diff_id
    found = read(layer, store)
    assert {path: node for path, node in found.items() if not isinstance(node, Folder)} == CONTENT
    made = BundleManifest("amd64", "tree", "sha256:" + "1" * 64, ("core",), (layer,))
    assert parse(made.to_json(), "here") == made
    assert (unpacked(made, store) / "openhands/share/a").read_bytes() == b"a"


def test_a_zstd_layer_unpacks_to_the_tar_of_the_gzip_layer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other = (layers.write("core", "core", CONTENT, store, form) for form in ("gzip", "zstd"))
    assert (one.diff_id, one.size) == (other.diff_id, other.size)
    assert one.digest != other.digest
    assert store.blob_path(other.digest).read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_a_damaged_layer_is_an_error_in_words(form: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = layers.write("core", "core", CONTENT, store, form)
    path = store.blob_path(layer.digest)
    half = path.read_bytes()[: layer.compressed_size // 2]
    with pytest.raises((FormatError, VerificationError), match="core"):
        read(dataclasses.replace(layer, digest=store.put(half)), store)


def test_without_a_zstd_library_zstd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UnsupportedError, match=r"pip install 'graftbox\[zstd\]'"):
        compression.zstd()


def test_a_small_zstd_layer_of_much_is_unpacked_in_pieces() -> None:
    blob = compression.zstd().compress(bytes(200 << 20))
    sizes = [len(piece) for piece in image_layer.decompressed(iter([blob]))]
    assert sum(sizes) == 200 << 20
    assert max(sizes) <= 8 << 20


def test_each_form_has_keys_and_records_of_its_own(tmp_path: Path) -> None:
    jobs = {form: Job.of(arch="amd64", store=Store(tmp_path), compression=form) for form in compression.FORMS}
    for name in jobs["gzip"].layer_names:
        assert len({job.key(name) for job in jobs.values()}) == 3
    digest = jobs["gzip"].store.put(gzip.compress(b""))
    layer = Layer("core", "core", digest, digest, 5, 20, 1, "zstd")
    jobs["zstd"].save([layer])
    assert jobs["gzip"].recorded() is None
    found = jobs["zstd"].recorded()
    assert found is not None
    assert found.layers == (layer,)


def test_the_digest_of_a_gzip_bundle_knows_nothing_of_other_forms() -> None:
    layer = Layer("core", "core", "sha256:" + "1" * 64, "sha256:" + "2" * 64, 10, 5, 1)
    made = BundleManifest("amd64", "tree", "sha256:" + "3" * 64, ("core",), (layer,))
    old = {
        "arch": "amd64",
        "flavor": "tree",
        "layers": [
            {"name": "core", "component": "core", "digest": layer.digest, "diff_id": layer.diff_id}
            | {"size": 10, "compressed_size": 5, "files": 1}
        ],
    }
    data = json.dumps(old, sort_keys=True, separators=(",", ":")).encode()
    assert made.digest == "sha256:" + hashlib.sha256(data).hexdigest()

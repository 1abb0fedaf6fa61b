from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graftbox import leftovers
from graftbox.leftovers import Leftover, kinds, remove, unused
from graftbox.store import Store

HEX = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "cache")
    store.put(b"blob" * 1000)
    layer = store.folder("trees", "layers", HEX)
    (layer / "file").write_bytes(bytes(100_000))
    tree = store.folder("trees", HEX[::-1])
    os.link(layer / "file", tree / "file")
    image = store.folder("rootfs", "cd" * 32)
    (image / "etc").mkdir()
    (image / "etc/passwd").write_bytes(b"root")
    (image / "etc").chmod(0o500)
    return store


def test_what_is_linked_counts_once(store: Store) -> None:
    found = {kind.name: kind for kind in kinds(store)}
    assert {name for name, kind in found.items() if kind.entries == 1} == {
        "blobs", "images", "trees", "unpacked layers"
    }  # fmt: skip
    assert found["trees"].size + found["unpacked layers"].size < 150_000
    assert not any(kind.entries for kind in kinds(Store(store.root / "nothing")))


def test_only_what_is_not_used_goes_and_goes_whole(store: Store) -> None:
    assert unused(store, time.time() - 60) == []
    moment = time.time() + 0.05  # the kernel's clock for files has a coarse hand
    while time.time() < moment + 0.05:
        pass
    assert store.used(store.root / "trees" / HEX[::-1])
    found = unused(store, moment)
    assert [leftover.kind for leftover in found] == ["blobs", "images", "unpacked layers"]
    for leftover in found:
        remove(store, leftover)
        remove(store, leftover)
    assert list((store.root / "rootfs").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []
    assert (store.root / "trees" / HEX[::-1] / "file").stat().st_size == 100_000


def test_a_file_that_is_also_elsewhere_frees_nothing_until_it_goes_there_too(store: Store) -> None:
    tree, layer = store.root / "trees" / HEX[::-1], store.root / "trees/layers" / HEX
    always = {leftover.path: leftover.size for leftover in unused(store, time.time() + 60)}
    assert always[tree] < 50_000
    assert always[layer] > 100_000
    remove(store, Leftover("trees", tree, 0))
    alone = {leftover.path: leftover.size for leftover in unused(store, time.time() + 60)}
    assert alone[layer] > 100_000
    os.link(layer / "file", store.root / "kept")
    kept = {leftover.path: leftover.size for leftover in unused(store, time.time() + 60)}
    assert kept[layer] < 50_000


def test_what_is_mounted_is_in_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_mounted", lambda: {"cd" * 32})
    assert "images" not in {leftover.kind for leftover in unused(store, time.time() + 60)}


def test_marking_as_used_leaves_the_times_that_a_sandbox_sees(store: Store) -> None:
    image = store.root / "rootfs" / ("cd" * 32)
    before = image.stat()
    assert store.used(image)
    assert (image.stat().st_mtime_ns, image.stat().st_atime_ns) == (before.st_mtime_ns, before.st_atime_ns)
    assert not store.used(store.root / "rootfs" / "none")


def test_the_command_shows_and_prunes(store: Store) -> None:
    def graftbox(*words: str) -> str:
        environ = {**os.environ, "GRAFTBOX_CACHE": str(store.root)}
        command = [str(Path(sys.executable).with_name("graftbox")), "cache", *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout

    assert str(store.root) in graftbox("show")
    assert graftbox("prune").strip() == ""
    assert graftbox("prune", "--unused-for", "0", "--dry-run").count("would remove") == 4
    assert graftbox("prune", "--unused-for", "0").count("removed") == 4
    assert '"entries": 0' in graftbox("show", "--json")


def test_what_a_mirror_has_noted_goes_when_nothing_reads_it(store: Store) -> None:
    note = store.folder("mirror", HEX[:32]) / f"{HEX}.json"
    note.write_text("{}")
    assert "mirrored images" not in {leftover.kind for leftover in unused(store, time.time() - 60)}
    (found,) = [
        leftover for leftover in unused(store, time.time() + 60) if leftover.kind == "mirrored images"
    ]
    remove(store, found)
    assert not note.exists()

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftbox.bundle import compression, inventory, layers, merging, own_code
from graftbox.bundle.build import Job
from graftbox.bundle.content import Content, File, Folder, Link, with_parents
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.tree import unpacked
from graftbox.bundle.verify import read
from graftbox.errors import FormatError, NotFoundError, VerificationError
from graftbox.store import Store

CORE: Content = {
    "bin/run": File(b"#!/openhands/libexec/dash\n", executable=True),
    "lib/noise": File(random.Random(5).randbytes(9 << 20)),
    "lib/python/a.py": File(b"a = 1\n"),
    "l": Link("lib/locale"),
    "workspace": Folder(),
}
MORE: Content = {"lib/python/b.py": File(b"b = 2\n"), "lib/" + "long/" * 40 + "name": File(b"x")}
FOLDERS: Content = {"plugins": Folder()}
CONTENTS = (CORE, MORE, FOLDERS)


def parts(store: Store, form: str = "gzip") -> list[Layer]:
    return [
        layers.write(f"part{number}", "core", content, store, form) for number, content in enumerate(CONTENTS)
    ]


def manifest(*made: Layer) -> BundleManifest:
    return BundleManifest("amd64", "tree", "sha256:" + "1" * 64, ("core",), made)


def contents(folder: Path) -> dict[str, str | bytes | None]:
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("form", compression.FORMS)
def test_a_merged_layer_holds_what_its_parts_hold(form: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = parts(store, form)
    made = merging.merged(found, "core", store)
    assert read(made, store) == dict(with_parents(CORE | MORE | FOLDERS))
    assert (made.files, made.compression) == (sum(part.files for part in found), form)
    assert made.compressed_size == store.blob_path(made.digest).stat().st_size
    apart, together = unpacked(manifest(*found), store), unpacked(manifest(made), store)
    assert apart != together
    assert contents(apart) == contents(together)


@pytest.mark.parametrize("form", compression.FORMS)
def test_no_path_is_in_a_merged_layer_twice(form: str, tmp_path: Path) -> None:
    """image-spec, layer.md: "MUST NOT include duplicate entries for file paths"."""
    store = Store(tmp_path)
    made = merging.merged(parts(store, form), "core", store)
    with compression.opened(store.blob_path(made.digest), form) as stream:
        data = stream.read()
    assert ("sha256:" + hashlib.sha256(data).hexdigest(), len(data)) == (made.diff_id, made.size)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    for name in names:
        above = name.rpartition("/")[0]
        assert not above or above in names[: names.index(name)]


@pytest.mark.parametrize("form", compression.FORMS)
def test_merging_gives_the_same_bytes_everywhere(form: str, tmp_path: Path) -> None:
    one, two = Store(tmp_path / "1"), Store(tmp_path / "2")
    assert merging.merged(parts(one, form), "core", one) == merging.merged(parts(two, form), "core", two)


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_what_is_compressed_is_not_compressed_again(form: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = parts(store, form)
    merged = store.blob_path(merging.merged(found, "core", store).digest).read_bytes()
    whole = store.blob_path(found[0].digest).read_bytes()
    middle = whole[2000:-2000]
    assert middle in merged


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=2, max_size=4))
def test_any_parts_give_the_tar_of_their_folders_then_their_files(
    tmp_path_factory: pytest.TempPathFactory, shape: list[list[int]]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    made: list[Content] = [
        {f"d{number % 3}/p{part}/{number}": File(bytes([number]) * number * 300) for number in numbers}
        for part, numbers in enumerate(shape)
    ]
    found = [layers.write(f"p{part}", "core", content, store) for part, content in enumerate(made)]
    merged = merging.merged(found, "core", store)
    data = gzip.decompress(store.blob_path(merged.digest).read_bytes())
    folders = {path for content in made for path, node in with_parents(content) if isinstance(node, Folder)}
    tails = [
        b"".join(layers.tar(content))[
            len(
                layers.folders(path for path, node in with_parents(content) if isinstance(node, Folder))
            ) : -1024
        ]
        for content in made
    ]
    assert data == layers.folders(folders) + b"".join(tails) + bytes(1024)


@pytest.mark.parametrize("form", compression.FORMS)
def test_a_damaged_part_is_named_and_nothing_is_kept(form: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = parts(store, form)
    path = store.blob_path(found[0].digest)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        whole[:middle],
        whole[:-1] + b"?",
        b"",
    ):
        path.unlink()
        path.write_bytes(damaged)
        before = set((tmp_path / "blobs/sha256").iterdir())
        with pytest.raises((FormatError, VerificationError), match="part0"):
            merging.merged(found, "core", store)
        assert set((tmp_path / "blobs/sha256").iterdir()) == before
        assert not list((tmp_path / "tmp").iterdir())
    path.unlink()
    with pytest.raises(NotFoundError, match="graftbox bundle build"):
        merging.merged(found, "core", store)


def test_a_layer_whose_folders_do_not_come_first_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("openhands/file"))
    data = gzip.compress(buffer.getvalue())
    diff_id = "sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest()
    other = Layer("odd", "core", store.put(data), diff_id, len(buffer.getvalue()), len(data), 1)
    with pytest.raises(FormatError, match="folders do not come first"):
        merging.merged([*parts(store), other], "core", store)


class OwnLayers(Job):
    """A bundle of a few small layers that need no packages."""

    @property
    def layer_names(self) -> list[str]:
        return ["part0", "part1", "part2", "server"]

    def key(self, layer: str) -> str:
        return hashlib.sha256(layer.encode()).hexdigest()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    plain = Job.of(arch="amd64", store=Store(tmp_path))
    return OwnLayers(plain.recipe, plain.lock, plain.arch, plain.components, plain.store, merged=True)


def made_by(job: Job, code: bytes = b"code") -> list[Layer]:
    server: Content = {"code/x.py": File(code)}
    named = zip(job.layer_names, (*CONTENTS, server), strict=True)
    made = []
    for name, content in named:
        made.append(layers.write(name, "core", content, job.store))
        inventory.record(made[-1], content, job.store)
    return made


def test_a_merged_bundle_has_one_layer_below_that_of_the_server(job: Job) -> None:
    found = made_by(job)
    saved = job.save(found)
    assert [layer.name for layer in saved.layers] == ["components", "server"]
    assert saved.layers[1] == found[-1]
    assert saved.components == job.components
    assert job.found() == saved
    apart = dataclasses.replace(job, merged=False)
    assert apart.path != job.path
    assert apart.found() is None
    assert apart.save(found).digest != saved.digest


def test_an_edit_of_the_server_leaves_the_merged_layer(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = job.save(made_by(job))
    monkeypatch.setattr(merging, "merged", None)
    after = job.save(made_by(job, b"other code"))
    assert after.layers[0] == before.layers[0]
    assert after.layers[1] != before.layers[1]


def test_a_merged_layer_that_is_gone_is_merged_again(job: Job) -> None:
    made = job.save(made_by(job))
    job.store.blob_path(made.layers[0].digest).unlink()
    assert job.found() is None
    assert job.save(made_by(job)) == made
    assert job.found() == made


def test_one_part_is_not_merged(job: Job) -> None:
    *_, last = found = made_by(job)
    assert job.save([found[0], last]).layers == (found[0], last)


def test_where_the_bytes_of_a_merged_bundle_are_is_known(job: Job) -> None:
    found = made_by(job)
    apart = dataclasses.replace(job, merged=False).save(found)
    rows = list(inventory.rows(job.save(found), job.store))
    assert {row.layer for row in rows} == {"components", "server"}
    assert sorted((row.path, row.size, row.compressed, row.package) for row in rows) == sorted(
        (row.path, row.size, row.compressed, row.package) for row in inventory.rows(apart, job.store)
    )


def test_every_file_that_decides_a_merged_layer_is_part_of_its_key() -> None:
    assert len(own_code.files(own_code.MERGER)) == len(own_code.MERGER)
    assert "bundle/merging.py" in own_code.MERGER

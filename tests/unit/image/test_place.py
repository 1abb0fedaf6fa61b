"""Whole grafts between layouts and archives, without a network."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_bundle

from graftbox.errors import (
    FormatError,
    GraftboxError,
    NotFoundError,
    StorageError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from graftbox.image import layout as layout_module
from graftbox.image.graft import Bundle
from graftbox.image.place import DEEPEST, Report, graft_image
from graftbox.image.reference import parse
from graftbox.store import Store

FILES = [{"etc/os-release": b"NAME=test\n"}, {"bin/tool": b"\x7fELF" * 1000}]


def run(base: str, target: str, store: Store, *bundles: Bundle, **options: Any) -> Report:
    by_arch = {bundle.arch: bundle for bundle in bundles}
    return graft_image(parse(base), parse(target), by_arch, store, **options)


def blob(folder: Path, digest: str) -> dict[str, Any]:
    parsed = json.loads((folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture
def based(layout: Any) -> str:
    """A layout with one two-layer image, as a reference."""
    layout.image(FILES, process={"Env": ["A=b"], "Cmd": ["/bin/tool"]})
    return f"oci:{layout.folder}:base"


def test_a_layout_gains_a_runtime_image_under_its_tag(
    based: str, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    report = run(based, f"oci:{tmp_path / 'out'}:run", store, bundle)
    out = tmp_path / "out"
    (entry,) = json.loads((out / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == report.digest
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "run"}
    manifest = blob(out, report.digest)
    assert len(manifest["layers"]) == 4
    for descriptor in (manifest["config"], *manifest["layers"]):
        path = out / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")
        assert path.stat().st_size == descriptor["size"]
    assert report.layers_sent == 0
    assert report.tags == ("run",)


def test_the_same_graft_twice_is_the_same_digest_and_writes_nothing(
    based: str, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    target = f"oci:{tmp_path / 'out'}:run"
    first, second = run(based, target, store, bundle), run(based, target, store, bundle)
    assert first.digest == second.digest
    assert second.bytes_sent == 0


def test_grafting_into_the_bases_own_layout_leaves_the_base_there(
    based: str, store: Store, bundle: Bundle, layout: Any
) -> None:
    before = run(based, f"oci:{layout.folder}:run", store, bundle)
    after = run(f"oci:{layout.folder}:run", f"oci:{layout.folder}:again", store, bundle)
    assert before.digest == after.digest
    tags = [
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in json.loads((layout.folder / "index.json").read_bytes())["manifests"]
    ]
    assert tags == ["base", "run", "again"]


def test_one_graft_may_have_several_tags(based: str, store: Store, bundle: Bundle, tmp_path: Path) -> None:
    report = run(based, f"oci:{tmp_path / 'out'}:one", store, bundle, tags=["two"])
    assert report.tags == ("one", "two")
    for tag in report.tags:
        assert (
            run(f"oci:{tmp_path / 'out'}:{tag}", f"oci:{tmp_path / 'x'}", store, bundle).digest
            == report.digest
        )


@pytest.mark.parametrize("form", ["oci-archive:{0}/a.tar:run", "docker-archive:{0}/a.tar:team/run:1"])
def test_an_archive_can_be_read_back_and_is_the_same_bytes_every_time(
    form: str, based: str, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    target = form.format(tmp_path)
    report = run(based, target, store, bundle)
    first = (tmp_path / "a.tar").read_bytes()
    run(based, target, store, bundle)
    assert (tmp_path / "a.tar").read_bytes() == first
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    assert {"oci-layout", "index.json", "manifest.json"} <= set(names)
    assert len(names) == len(set(names))
    back = run(target, f"oci:{tmp_path / 'back'}:x", store, bundle)
    config = blob(tmp_path / "back", blob(tmp_path / "back", back.digest)["config"]["digest"])
    assert config["config"]["Env"] == ["A=b"]
    assert len(config["rootfs"]["diff_ids"]) == 4
    if target.startswith("oci-archive"):
        assert back.digest == report.digest


def test_an_index_is_grafted_for_every_platform_that_has_a_bundle(
    layout: Any, store: Store, bundle: Bundle, arm_bundle: Bundle, tmp_path: Path
) -> None:
    children = {
        "linux/amd64": layout.image(FILES, tag=None),
        "linux/arm64/v8": layout.image(FILES, tag=None, arch="arm64", variant="v8"),
        "linux/s390x": layout.image(FILES, tag=None, arch="s390x"),
        "unknown/unknown": layout.image([], tag=None),
    }
    layout.index(children)
    base = f"oci:{layout.folder}:base"
    report = run(base, f"oci:{tmp_path / 'out'}:run", store, bundle, arm_bundle)
    index = blob(tmp_path / "out", report.digest)
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    assert report.platforms == ("linux/amd64", "linux/arm64/v8")
    assert "s390x" in report.notes[0]
    assert "unknown" not in report.notes[0]
    again = run(f"oci:{tmp_path / 'out'}:run", f"oci:{tmp_path / 'out'}:again", store, bundle, arm_bundle)
    assert again.digest == report.digest
    one = run(base, f"oci:{tmp_path / 'one'}:run", store, bundle, arm_bundle, platform="linux/arm64")
    assert one.digest == index["manifests"][1]["digest"]


def test_no_fitting_platform_names_those_that_exist(layout: Any, store: Store, bundle: Bundle) -> None:
    layout.index({"linux/s390x": layout.image(FILES, tag=None, arch="s390x")})
    with pytest.raises(UnsupportedError, match="linux/s390x"):
        run(f"oci:{layout.folder}:base", f"oci:{layout.folder}:run", store, bundle)


def test_several_images_without_a_tag_are_a_question(layout: Any, store: Store, bundle: Bundle) -> None:
    layout.image(FILES, tag="a")
    layout.image([], tag="b")
    with pytest.raises(NotFoundError, match="a, b"):
        run(f"oci:{layout.folder}", f"oci:{layout.folder}:run", store, bundle)
    with pytest.raises(NotFoundError, match="a, b"):
        run(f"oci:{layout.folder}:c", f"oci:{layout.folder}:run", store, bundle)


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("oci:{0}/nowhere:x", NotFoundError),
        ("docker-archive:{0}/nowhere.tar", NotFoundError),
        ("oci-archive:{0}/text", FormatError),
        ("docker-archive:{0}/empty.tar", FormatError),
    ],
)
def test_a_base_that_is_not_there_or_no_image(
    base: str, kind: type[GraftboxError], store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no tar" * 1000)
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(kind):
        run(base.format(tmp_path), f"oci:{tmp_path / 'out'}", store, bundle)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["scratch", "oci:out@sha256:" + "0" * 64, "host/x@sha256:" + "0" * 64])
def test_a_target_needs_a_name_of_its_own(target: str, store: Store, bundle: Bundle) -> None:
    with pytest.raises(UsageError):
        run("scratch", target, store, bundle)


def damage(layout: Any, digest: str, how: str) -> None:
    path = layout.folder / "blobs/sha256" / digest.removeprefix("sha256:")
    data = path.read_bytes()
    path.write_bytes(data[:-7] if how == "truncated" else data[:-7] + b"garbage")


@pytest.mark.parametrize("how", ["truncated", "changed"])
@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_a_damaged_base_leaves_no_half_written_archive(
    how: str, what: str, layout: Any, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    manifest = layout.image(FILES)
    digests = {
        "manifest": manifest.digest,
        "config": manifest.config.digest,
        "layer": manifest.layers[1].digest,
    }
    damage(layout, digests[what], how)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(VerificationError, match=digests[what]):
        run(f"oci:{layout.folder}:base", f"oci-archive:{folder / 'a.tar'}:x", store, bundle)
    assert list(folder.iterdir()) == []


def test_an_archive_that_was_cut_off_is_an_error(
    based: str, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    archive = tmp_path / "a.tar"
    run(based, f"oci-archive:{archive}:x", store, bundle)
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises((FormatError, NotFoundError)):
        run(f"oci-archive:{archive}:x", f"oci:{tmp_path / 'out'}:x", store, bundle)


def test_a_full_disk_is_named_and_leaves_nothing(
    based: str, store: Store, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, chunks: Iterator[bytes]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(layout_module, "_write", full)
    with pytest.raises(StorageError, match="No space left"):
        run(based, f"oci:{tmp_path / 'out'}:x", store, bundle)
    monkeypatch.undo()
    assert not (tmp_path / "out" / "index.json").exists()
    run(based, f"oci:{tmp_path / 'out'}:x", store, bundle)


@pytest.mark.parametrize("target", ["oci:/proc/none/x:1", "docker-archive:/nowhere/a.tar"])
def test_a_target_in_a_folder_that_cannot_be_is_named(
    based: str, target: str, store: Store, bundle: Bundle
) -> None:
    with pytest.raises(StorageError, match="Cannot write"):
        run(based, target, store, bundle)


def test_a_target_that_is_no_file_is_refused_and_left_alone(
    layout: Any, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    layout.image(FILES)
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("pipe")
    for target in (pipe, link, tmp_path):
        with pytest.raises(UsageError, match="no ordinary file"):
            run(f"oci:{layout.folder}:base", f"oci-archive:{target}", store, bundle)
    assert (pipe.is_fifo(), link.is_symlink(), tmp_path.is_dir()) == (True, True, True)
    link.unlink()
    link.symlink_to("a.tar")
    run(f"oci:{layout.folder}:base", f"oci-archive:{link}", store, bundle)
    assert (link.is_symlink(), (tmp_path / "a.tar").is_file()) == (True, True)


@pytest.mark.parametrize("form", ["oci:{0}/l:x", "oci-archive:{0}/a.tar:x"])
def test_ctrl_c_in_the_middle_leaves_nothing_under_the_name(
    form: str, layout: Any, store: Store, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.image(FILES)
    out = tmp_path / "out"
    out.mkdir()

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "other disk")))
    base, target = f"oci:{layout.folder}:base", form.format(out)
    with pytest.raises(KeyboardInterrupt):
        run(base, target, store, bundle, progress=interrupted)
    assert not (out / "a.tar").exists()
    assert not (out / "l" / "index.json").exists()
    assert [path for path in out.rglob("*") if path.name.startswith(".graftbox-")] == []
    assert run(base, target, store, bundle).digest


def test_a_bundle_layer_that_left_the_cache_is_named(
    based: str, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    store.blob_path(bundle.layers[0].digest).unlink()
    with pytest.raises(GraftboxError, match="build it again"):
        run(based, f"oci:{tmp_path / 'out'}:x", store, bundle)


def merged(bundle: Bundle, store: Store) -> Bundle:
    """The same bundle in one layer instead of two."""
    (one, _) = make_bundle(store, bundle.arch, salt="merged").layers
    fewer = dataclasses.replace(bundle, digest=one.digest, layers=(one,))
    return dataclasses.replace(bundle, fewer=lambda: fewer)


@pytest.mark.parametrize(("depth", "kept"), [(DEEPEST - 2, 2), (DEEPEST - 1, 1), (DEEPEST, 1)])
def test_a_base_with_many_layers_gets_the_bundle_in_fewer(
    depth: int, kept: int, layout: Any, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    layout.image([{"a": str(number).encode()} for number in range(depth)])
    told: list[str] = []
    target = f"oci:{tmp_path / 'out'}:run"
    report = run(f"oci:{layout.folder}:base", target, store, merged(bundle, store), progress=told.append)
    manifest = blob(tmp_path / "out", report.digest)
    assert len(manifest["layers"]) == depth + kept
    labels = blob(tmp_path / "out", manifest["config"]["digest"])["config"]["Labels"]
    assert labels["io.graftbox.layers"].startswith(f"{kept}:")
    deep = f"{DEEPEST + 1} layers; Docker's own store takes {DEEPEST}"
    assert any(deep in line for line in told) is (depth == DEEPEST)
    assert [deep in note for note in report.notes] == [True] * (depth == DEEPEST)
    # What was grafted before is not counted: it goes.
    again = run(target, target, store, merged(bundle, store))
    assert again.digest == report.digest


def test_each_platform_of_an_index_gets_what_has_room(
    layout: Any, store: Store, bundle: Bundle, arm_bundle: Bundle, tmp_path: Path
) -> None:
    many = [{"a": str(number).encode()} for number in range(DEEPEST - 1)]
    children = {
        "linux/amd64": layout.image(many, tag=None),
        "linux/arm64": layout.image(many[:3], tag=None, arch="arm64"),
    }
    layout.index(children)
    both = [merged(one, store) for one in (bundle, arm_bundle)]
    report = run(f"oci:{layout.folder}:base", f"oci:{tmp_path / 'out'}:run", store, *both)
    index = blob(tmp_path / "out", report.digest)
    counts = [len(blob(tmp_path / "out", entry["digest"])["layers"]) for entry in index["manifests"]]
    assert counts == [DEEPEST, 5]
    fewer = both[0].fewer
    assert fewer is not None
    assert index["annotations"]["io.graftbox.bundle"] == f"{fewer().digest},{arm_bundle.digest}"

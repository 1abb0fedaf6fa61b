"""Grafts of a bundle whose layers are zstd or eStargz: types, annotations, and `verify` of the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import layers as bundle_layers
from graftbox.bundle.content import File
from graftbox.bundle.manifest import BundleManifest
from graftbox.cli.graft import as_image_bundle
from graftbox.errors import UnsupportedError
from graftbox.image import daemon_batch
from graftbox.image.bundle_image import push_bundle
from graftbox.image.graft import Bundle
from graftbox.image.manifest import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.tags import Choice, repository, tags_of
from graftbox.image.transports import Access
from graftbox.image.verify import Question, verify
from graftbox.store import Store

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
FILES = [{"etc/os-release": b"NAME=test\n"}]
FORMS = ("zstd", "estargz")


def made(form: str, store: Store, arch: str = "amd64") -> Bundle:
    layers = tuple(
        bundle_layers.write(name, "core", {f"{name}/file": File(f"{name} {arch}".encode() * 99)}, store, form)
        for name in ("core", "server")
    )
    return as_image_bundle(BundleManifest(arch, "tree", "sha256:" + "1" * 64, ("core",), layers))


def blob(folder: Path, digest: str) -> dict[str, Any]:
    parsed = json.loads((folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize("docker", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_image_has_oci_types_whatever_the_base_has(
    form: str, docker: bool, layout: Any, store: Store, tmp_path: Path
) -> None:
    layout.image(FILES, docker=docker)
    bundle = made(form, store)
    base, target = parse(f"oci:{layout.folder}:base"), parse(f"oci:{tmp_path / 'out'}:run")
    manifest = blob(tmp_path / "out", graft_image(base, target, {"amd64": bundle}, store).digest)
    assert manifest["mediaType"] == OCI_MANIFEST
    kinds = [layer["mediaType"] for layer in manifest["layers"]]
    assert kinds == [f"{OCI_LAYER}+gzip"] + [f"{OCI_LAYER}+{'zstd' if form == 'zstd' else 'gzip'}"] * 2
    for layer in manifest["layers"][1:]:
        assert (TOC_DIGEST in layer.get("annotations", {})) is (form == "estargz")
    verdict = verify(Question(target, lambda digest, arch: [bundle], store, base=base, layers=True))
    assert verdict.ok, verdict.all_differences


@pytest.mark.parametrize("form", FORMS)
def test_the_platforms_of_a_docker_index_and_it_get_oci_types_together(
    form: str, layout: Any, store: Store, arm_bundle: Bundle, tmp_path: Path
) -> None:
    children = {
        f"linux/{arch}": layout.image(FILES, tag=None, arch=arch, docker=True) for arch in ("amd64", "arm64")
    }
    layout.index(children, docker=True)
    bundles = {"amd64": made(form, store), "arm64": arm_bundle}
    out = tmp_path / "out"
    report = graft_image(parse(f"oci:{layout.folder}:base"), parse(f"oci:{out}:run"), bundles, store)
    index = blob(out, report.digest)
    assert index["mediaType"] == OCI_INDEX
    assert {entry["mediaType"] for entry in index["manifests"]} == {OCI_MANIFEST}
    question = Question(
        parse(f"oci:{out}:run"),
        lambda digest, arch: [bundles[arch]],
        store,
        base=parse(f"oci:{layout.folder}:base"),
    )
    assert verify(question).ok


@pytest.mark.parametrize("form", FORMS)
def test_a_pushed_bundle_is_enough_to_verify_with(
    form: str, layout: Any, store: Store, tmp_path: Path
) -> None:
    layout.image(FILES)
    bundle = made(form, store)
    base, target = parse(f"oci:{layout.folder}:base"), parse(f"oci:{tmp_path / 'out'}:run")
    own = parse(f"oci:{tmp_path / 'own'}:bundle")
    graft_image(base, target, {"amd64": bundle}, store)
    push_bundle({"amd64": bundle}, own, store)
    verdict = verify(Question(target, lambda digest, arch: [], store, base=base, bundle=own))
    assert verdict.ok, verdict.all_differences


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_layers_counts_in_the_tags(form: str, store: Store) -> None:
    base, digest = parse("docker://busybox"), "sha256:" + "1" * 64
    gzip, other = made("gzip", store), made(form, store)
    one = tags_of(base, digest, Choice({"amd64": gzip}))
    two = tags_of(base, digest, Choice({"amd64": other}))
    assert one.source != two.source
    assert one.lock != two.lock


def test_a_docker_archive_takes_estargz_layers(layout: Any, store: Store, tmp_path: Path) -> None:
    layout.image(FILES)
    bundle = made("estargz", store)
    base, target = parse(f"oci:{layout.folder}:base"), parse(f"docker-archive:{tmp_path / 'out.tar'}:run:1")
    graft_image(base, target, {"amd64": bundle}, store)
    verdict = verify(Question(target, lambda digest, arch: [bundle], store, base=base, layers=True))
    assert verdict.ok, verdict.all_differences


def test_a_list_into_docker_is_refused_with_zstd_layers_before_anything_is_read(
    store: Store, tmp_path: Path
) -> None:
    choice = Choice({"amd64": made("zstd", store)})
    nobody = Access(docker_host=f"unix://{tmp_path}/no.sock")
    with pytest.raises(UnsupportedError, match="--compression gzip"):
        list(daemon_batch.load(["a"], repository("team/rt"), choice, store, nobody))


def test_zstd_layers_are_refused_where_docker_load_reads_them(
    layout: Any, store: Store, tmp_path: Path
) -> None:
    layout.image(FILES)
    bundles, target = {"amd64": made("zstd", store)}, parse(f"docker-archive:{tmp_path / 'out.tar'}:run:1")
    with pytest.raises(UnsupportedError, match="--compression gzip"):
        graft_image(parse(f"oci:{layout.folder}:base"), target, bundles, store)
    with pytest.raises(UnsupportedError, match="--compression gzip"):
        push_bundle(bundles, target, store)
    assert not (tmp_path / "out.tar").exists()

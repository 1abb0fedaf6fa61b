"""`graftbox verify`: an image that is base + bundle is proved to be, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftbox.errors import NotFoundError
from graftbox.image.bundle_image import push_bundle
from graftbox.image.graft import Bundle
from graftbox.image.manifest import serialise
from graftbox.image.place import graft_image
from graftbox.image.platforms import machine_architecture
from graftbox.image.reference import parse
from graftbox.image.verify import Question, Verdict, verify
from graftbox.store import Store, digest_of

FILES = [{"etc/name": b"base"}, {"bin/tool": b"\x7fELF" * 5000}]
PROCESS = {"Env": ["A=b", "C=d"], "Cmd": ["/bin/tool"], "User": "7", "Labels": {"who": "me"}}

Check = Callable[..., Verdict]


@pytest.fixture
def check(layout: Any, store: Store, bundle: Bundle, arm_bundle: Bundle, tmp_path: Path) -> Check:
    """Verifies an image of ``out`` against the base in ``layout``; both bundles are known."""
    known = {bundle.digest: bundle, arm_bundle.digest: arm_bundle}

    def run(image: str = f"oci:{tmp_path / 'out'}:run", **more: Any) -> Verdict:
        base = more.pop("base", f"oci:{layout.folder}:base")
        found = more.pop("known", lambda digest, arch: [known[digest]] if digest in known else [])
        return verify(Question(parse(image), found, store, base=parse(base), **more))

    return run


@pytest.fixture
def graft(
    layout: Any, store: Store, bundle: Bundle, arm_bundle: Bundle, tmp_path: Path
) -> Callable[..., Path]:
    """Grafts ``base`` of ``layout`` into ``out`` as ``run``."""

    def run(target: str = f"oci:{tmp_path / 'out'}:run", **options: Any) -> Path:
        bundles = {"amd64": bundle, "arm64": arm_bundle}
        graft_image(parse(f"oci:{layout.folder}:base"), parse(target), bundles, store, **options)
        return tmp_path / "out"

    return run


def docker_archive(tar_of: Callable[..., bytes], layers: list[dict[str, bytes]]) -> bytes:
    """What ``docker save`` writes: plain layers, a config, and a list of both."""
    tars = [tar_of(files) for files in layers]
    rootfs = {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    files = {f"{number}/layer.tar": tar for number, tar in enumerate(tars)}
    entry = {"Config": "config.json", "RepoTags": ["base:1"], "Layers": list(files)}
    return tar_of({**files, "config.json": config, "manifest.json": json.dumps([entry]).encode()})


def flip(path: Path, position: int = -1) -> None:
    """Changes one byte; what is hard-linked elsewhere stays as it is there."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.unlink()
    path.write_bytes(data)


def top(folder: Path) -> dict[str, Any]:
    entry = json.loads((folder / "index.json").read_bytes())["manifests"][-1]
    return {"entry": entry, **json.loads(blob(folder, entry["digest"]).read_bytes())}


def blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def rewrite(folder: Path, **changes: Any) -> None:
    """Replaces config and manifest by others whose digests are right: only the content can tell."""
    manifest = top(folder)
    entry = manifest.pop("entry")
    config = json.loads(blob(folder, manifest["config"]["digest"]).read_bytes())
    changes.get("config", lambda c: None)(config)
    manifest["config"] |= _stored(folder, serialise(config))
    changes.get("manifest", lambda m: None)(manifest)
    entry |= _stored(folder, serialise(manifest))
    (folder / "index.json").write_bytes(serialise({"schemaVersion": 2, "manifests": [entry]}))


def _stored(folder: Path, data: bytes) -> dict[str, Any]:
    blob(folder, digest_of(data)).write_bytes(data)
    return {"digest": digest_of(data), "size": len(data)}


@pytest.mark.parametrize("options", [{}, {"user": "0"}, {"user": ""}, {"keep_entrypoint": True}])
@pytest.mark.parametrize("docker", [False, True])
def test_a_graft_is_proved_to_be_base_and_bundle(
    layout: Any, graft: Callable[..., Path], check: Check, options: dict[str, Any], docker: bool
) -> None:
    base = layout.image(FILES, process=PROCESS, docker=docker)
    graft(platform="linux/amd64", **options)
    verdict = check(layers=True)
    assert verdict.ok, verdict.all_differences
    (checked,) = verdict.platforms
    assert (checked.base_layers, checked.bundle_layers) == (2, 2)
    assert checked.base_digest == base.digest
    assert checked.user == options.get("user")
    assert checked.keep_entrypoint is options.get("keep_entrypoint", False)
    assert checked.bytes_read > 0


def test_a_base_without_history_command_or_labels(
    layout: Any, graft: Callable[..., Path], check: Check
) -> None:
    layout.image(FILES, history=None)
    graft(platform="linux/amd64", keep_entrypoint=True)
    assert check().ok


def test_every_platform_and_the_index_are_compared(
    layout: Any, graft: Callable[..., Path], check: Check
) -> None:
    children = {f"linux/{arch}": layout.image(FILES, tag=None, arch=arch) for arch in ("amd64", "arm64")}
    layout.index({**children, "linux/s390x": layout.image(FILES, tag=None, arch="s390x")})
    folder = graft()
    verdict = check()
    assert verdict.ok, verdict.all_differences
    assert [checked.platform for checked in verdict.platforms] == ["linux/amd64", "linux/arm64"]
    index = top(folder)
    entry = index.pop("entry")
    index["annotations"]["more"] = "x"
    entry |= _stored(folder, serialise(index))
    (folder / "index.json").write_bytes(serialise({"schemaVersion": 2, "manifests": [entry]}))
    assert [str(one) for one in check().all_differences] == [
        'index.annotations.more: should not be there: "x"'
    ]


def test_one_platform_of_an_index(layout: Any, graft: Callable[..., Path], check: Check) -> None:
    children = {f"linux/{arch}": layout.image(FILES, tag=None, arch=arch) for arch in ("amd64", "arm64")}
    layout.index(children, docker=True)
    graft(platform="linux/arm64")
    verdict = check()
    assert verdict.ok, verdict.all_differences
    assert verdict.platforms[0].base_digest == children["linux/arm64"].digest


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_images_in_archives(
    layout: Any, graft: Callable[..., Path], check: Check, tmp_path: Path, kind: str
) -> None:
    layout.image(FILES, process=PROCESS)
    target = f"{kind}:{tmp_path / 'image.tar'}:{'app:1' if kind.startswith('docker') else '1'}"
    graft(target, platform="linux/amd64")
    assert check(target, layers=True).ok
    data = bytearray((tmp_path / "image.tar").read_bytes())
    blobs = data.index(b"\x1f\x8b")
    data[blobs + 40] ^= 1
    (tmp_path / "image.tar").write_bytes(data)
    verdict = check(target, layers=True)
    assert not verdict.ok
    assert verdict.all_differences[0].where.startswith(("layer 1", "config", "manifest"))


def test_a_base_in_a_docker_archive(
    check: Check, store: Store, bundle: Bundle, tmp_path: Path, tar_of: Callable[..., bytes]
) -> None:
    (tmp_path / "base.tar").write_bytes(docker_archive(tar_of, FILES))
    base, target = f"docker-archive:{tmp_path / 'base.tar'}:base:1", f"oci:{tmp_path / 'out'}:run"
    graft_image(parse(base), parse(target), {"amd64": bundle}, store)
    verdict = check(base=base, layers=True)
    assert verdict.ok, verdict.all_differences


def test_a_graft_of_a_graft_is_a_graft_of_the_first_base(
    layout: Any, check: Check, store: Store, bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    layout.image(FILES, process=PROCESS)
    first, again = parse(f"oci:{tmp_path / 'first'}:1"), parse(f"oci:{tmp_path / 'out'}:run")
    base = parse(f"oci:{layout.folder}:base")
    graft_image(base, first, {"amd64": other_bundle}, store, user="0", platform="linux/amd64")
    graft_image(first, again, {"amd64": bundle}, store, platform="linux/amd64")
    assert check().ok


@pytest.mark.parametrize("part", ["manifest", "config", "layer of the base", "layer of the bundle"])
@pytest.mark.parametrize("position", [0, 60, -1])
def test_a_changed_byte_is_found(
    layout: Any, graft: Callable[..., Path], check: Check, part: str, position: int
) -> None:
    layout.image(FILES, process=PROCESS)
    folder = graft(platform="linux/amd64")
    manifest = top(folder)
    digest = {
        "manifest": manifest["entry"]["digest"],
        "config": manifest["config"]["digest"],
        "layer of the base": manifest["layers"][0]["digest"],
        "layer of the bundle": manifest["layers"][-1]["digest"],
    }[part]
    flip(blob(folder, digest), position)
    verdict = check(layers=True)
    assert not verdict.ok
    assert part.split()[0] in verdict.all_differences[0].where
    assert check().ok is part.startswith("layer"), "without --layers their bytes are not read"


def test_a_layer_that_is_cut_off_or_gone_is_found_without_reading_it(
    layout: Any, graft: Callable[..., Path], check: Check
) -> None:
    layout.image(FILES)
    folder = graft(platform="linux/amd64")
    path = blob(folder, top(folder)["layers"][1]["digest"])
    data = path.read_bytes()
    path.unlink()
    assert "layer 2" in check().all_differences[0].where
    path.write_bytes(data[:-1])
    assert f"{len(data) - 1} bytes are stored" in check().all_differences[0].what


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"config": lambda c: c["config"]["Env"].append("LD_PRELOAD=/x.so")}, "config.config.Env"),
        ({"config": lambda c: c["config"].update(User="0")}, "config.config.User"),
        ({"config": lambda c: c["config"]["Entrypoint"].insert(0, "/evil")}, "config.config.Entrypoint"),
        ({"config": lambda c: c["config"]["Labels"].update(who="you")}, "config.config.Labels.who"),
        ({"config": lambda c: c["rootfs"]["diff_ids"].reverse()}, "config.rootfs.diff_ids[0]"),
        ({"config": lambda c: c["history"][0].update(created_by="me")}, "config.history[0].created_by"),
        ({"manifest": lambda m: m["layers"].insert(0, m["layers"].pop(1))}, "manifest.layers[0].digest"),
        (
            {"manifest": lambda m: m["layers"][0].update(urls=["https://x.example"])},
            "manifest.layers[0].urls",
        ),
        ({"manifest": lambda m: m["annotations"].clear()}, "manifest.annotations"),
        ({"manifest": lambda m: m.update(subject={"digest": "sha256:0"})}, "manifest.subject"),
        ({"manifest": lambda m: m["layers"].append(m["layers"][0])}, "manifest.layers"),
    ],
)
def test_what_was_changed_on_purpose_is_named(
    layout: Any, graft: Callable[..., Path], check: Check, changes: dict[str, Any], where: str
) -> None:
    layout.image(FILES, process=PROCESS)
    rewrite(graft(platform="linux/amd64"), **changes)
    found = check().all_differences
    assert any(one.where.startswith(where) for one in found), found
    assert not any(one.where.startswith("manifest.config") for one in found)


def test_the_same_content_in_other_bytes_is_told_apart(
    layout: Any, graft: Callable[..., Path], check: Check
) -> None:
    layout.image(FILES)
    folder = graft(platform="linux/amd64")
    manifest = top(folder)
    entry = manifest.pop("entry")
    entry |= _stored(folder, json.dumps(manifest, indent=2).encode())
    (folder / "index.json").write_bytes(serialise({"schemaVersion": 2, "manifests": [entry]}))
    (difference,) = check().all_differences
    assert "the same content in other bytes" in difference.what


def test_another_base_is_refused(layout: Any, graft: Callable[..., Path], check: Check) -> None:
    layout.image(FILES)
    graft(platform="linux/amd64")
    layout.image([{"other": b""}], tag="other")
    (difference,) = check(base=f"oci:{layout.folder}:other").all_differences
    assert difference.where == "base"
    assert "was made of sha256:" in difference.what


def test_a_base_whose_folder_nobody_named(
    layout: Any, graft: Callable[..., Path], store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    layout.image(FILES)
    graft(platform="linux/amd64")
    question = Question(parse(f"oci:{tmp_path / 'out'}:run"), lambda digest, arch: [bundle], store)
    (difference,) = verify(question).all_differences
    assert "--base" in difference.what


def test_a_bundle_that_is_not_known_or_not_the_images(
    layout: Any, graft: Callable[..., Path], check: Check, other_bundle: Bundle
) -> None:
    layout.image(FILES)
    graft(platform="linux/amd64")
    (difference,) = check(known=lambda digest, arch: []).all_differences
    assert difference.where == "bundle"
    assert "bundle build" in difference.what
    found = check(known=lambda digest, arch: [other_bundle]).all_differences
    assert any(one.where == "manifest.layers[2].digest" for one in found)


def test_a_pushed_bundle_stands_in_for_one_that_is_built_here(
    layout: Any,
    graft: Callable[..., Path],
    check: Check,
    store: Store,
    bundle: Bundle,
    other_bundle: Bundle,
    tmp_path: Path,
) -> None:
    layout.image(FILES)
    graft(platform="linux/amd64")
    pushed = parse(f"oci:{tmp_path / 'bundle'}:1")
    push_bundle({"amd64": bundle}, pushed, store)

    def nothing(digest: str, arch: str) -> list[Bundle]:
        return []

    assert check(known=nothing, bundle=pushed).ok
    push_bundle({"amd64": other_bundle}, parse(f"oci:{tmp_path / 'bundle'}:2"), store)
    wrong = parse(f"oci:{tmp_path / 'bundle'}:2")
    assert "carries" in check(known=nothing, bundle=wrong).all_differences[0].what
    image = parse(f"oci:{tmp_path / 'out'}:run")
    assert "other layers than" in check(known=nothing, bundle=image).all_differences[0].what


@pytest.mark.parametrize("components", [("core",), ("core", "mcp")])
def test_a_merged_bundle_that_is_not_known_is_named_as_such(
    layout: Any, check: Check, store: Store, bundle: Bundle, components: tuple[str, ...], tmp_path: Path
) -> None:
    layout.image(FILES)
    bundle = dataclasses.replace(bundle, components=components)
    graft_image(
        parse(f"oci:{layout.folder}:base"), parse(f"oci:{tmp_path / 'out'}:run"), {"amd64": bundle}, store
    )
    (difference,) = check(known=lambda digest, arch: []).all_differences
    # A bundle of one component has two layers anyway.
    assert ("bundle build --merge)" in difference.what) is (len(components) > 1)


def test_the_other_flavours_pushed_bundle_stands_in_for_it_too(
    layout: Any, check: Check, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    layout.image(FILES)
    bundle = dataclasses.replace(bundle, flavor="pyinstaller")
    base, pushed = parse(f"oci:{layout.folder}:base"), parse(f"oci:{tmp_path / 'bundle'}:1")
    graft_image(base, parse(f"oci:{tmp_path / 'out'}:run"), {"amd64": bundle}, store)
    push_bundle({"amd64": bundle}, pushed, store)
    assert check(known=lambda digest, arch: [], bundle=pushed).ok


def test_the_bundles_own_image_is_scratch_and_bundle(
    check: Check, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    push_bundle({"amd64": bundle}, parse(f"oci:{tmp_path / 'out'}:run"), store)
    assert check(base="scratch", layers=True).ok


def test_an_image_that_was_never_grafted(layout: Any, check: Check) -> None:
    layout.image(FILES)
    (difference,) = check(f"oci:{layout.folder}:base").all_differences
    assert "not made by graftbox" in difference.what


def test_an_image_that_does_not_exist_is_an_error_and_no_verdict(layout: Any, check: Check) -> None:
    layout.image(FILES)
    with pytest.raises(NotFoundError):
        check(f"oci:{layout.folder}:nothing")


def test_reading_layers_takes_little_memory(layout: Any, graft: Callable[..., Path], check: Check) -> None:
    layout.image([{"zeros": b"\0" * (64 << 20)}], arch=machine_architecture())
    graft(platform=f"linux/{machine_architecture()}")
    tracemalloc.start()
    try:
        assert check(layers=True).ok
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()

"""Grafts in a real registry."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from graftbox.errors import NotFoundError, TransportError, VerificationError
from graftbox.image.graft import Bundle
from graftbox.image.inspection import diagnose
from graftbox.image.place import Report, graft_image
from graftbox.image.reference import parse
from graftbox.image.unpack import unpacked
from graftbox.store import Store

FILES = [{"etc/name": b"base"}, {"bin/tool": b"\x7fELF" * 1000}]


def run(base: str, target: str, store: Store, *bundles: Bundle, **options: Any) -> Report:
    return graft_image(parse(base), parse(target), {b.arch: b for b in bundles}, store, **options)


@pytest.fixture
def repository(registry: Any, tmp_path: Path) -> str:
    """A repository name that no other test uses."""
    return f"{registry.address}/{re.sub(r'[^a-z0-9]+', '-', tmp_path.name.lower()).strip('-')}"


@pytest.fixture
def pushed(layout: Any, repository: str, skopeo: Callable[..., str]) -> str:
    """A base image that skopeo has pushed."""
    layout.image(FILES, process={"Env": ["A=b"], "Cmd": ["/bin/tool"], "User": "7"})
    name = f"{repository}/base:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.folder}:base", f"docker://{name}")
    return name


def requests(registry: Any) -> list[str]:
    return re.findall(r'"((?:GET|HEAD|PUT|POST|PATCH) \S+)', unquote(registry.log.read_text()))


def test_base_layers_are_neither_read_nor_sent(
    pushed: str, repository: str, store: Store, bundle: Bundle, registry: Any, skopeo: Callable[..., str]
) -> None:
    before = len(requests(registry))
    report = run(pushed, f"{repository}/run:1", store, bundle)
    assert report.layers_sent == 2
    base = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{pushed}"))
    layers = {layer["digest"] for layer in base["layers"]}
    touched = [line for line in requests(registry)[before:] if any(digest in line for digest in layers)]
    assert len(touched) == 2
    assert all(line.startswith("POST") and "mount=" in line for line in touched)

    shown = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{repository}/run:1"))
    assert shown["Digest"] == report.digest
    assert len(shown["Layers"]) == 4
    assert shown["Labels"]["org.opencontainers.image.base.name"] == pushed


def test_the_bundle_is_sent_once_per_registry(
    pushed: str, repository: str, store: Store, bundle: Bundle
) -> None:
    assert run(pushed, f"{repository}/one:1", store, bundle).layers_sent == 2
    second = run(pushed, f"{repository}/two:1", store, bundle)
    assert second.layers_sent == 0
    assert second.bytes_sent < 4000


def test_asking_again_writes_nothing(
    pushed: str, repository: str, store: Store, bundle: Bundle, registry: Any
) -> None:
    first = run(pushed, f"{repository}/run:1", store, bundle)
    before = len(requests(registry))
    assert run(pushed, f"{repository}/run:1", store, bundle).digest == first.digest
    assert [line.split()[0] for line in requests(registry)[before:]] == ["GET", "GET", "HEAD"]


def test_further_tags_and_by_digest(pushed: str, repository: str, store: Store, bundle: Bundle) -> None:
    report = run(pushed, f"{repository}/run:1", store, bundle, tags=["2", "latest"])
    assert report.tags == ("1", "2", "latest")
    for name in (f"{repository}/run:2", f"{repository}/run", f"{repository}/run@{report.digest}"):
        assert unpacked(parse(name), store, arch="amd64").digest == report.digest


def test_an_index_with_two_platforms(
    layout: Any, repository: str, store: Store, bundle: Bundle, arm_bundle: Bundle, skopeo: Callable[..., str]
) -> None:
    children = {
        "linux/amd64": layout.image(FILES, tag=None, docker=True),
        "linux/arm64": layout.image(FILES, tag=None, docker=True, arch="arm64"),
    }
    layout.index(children, docker=True)
    report = run(f"oci:{layout.folder}:base", f"{repository}/many:1", store, bundle, arm_bundle)
    raw = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{repository}/many:1"))
    assert raw["mediaType"].endswith("manifest.list.v2+json")
    assert report.platforms == ("linux/amd64", "linux/arm64")
    again = run(f"{repository}/many:1", f"{repository}/again:1", store, bundle, arm_bundle)
    assert again.digest == report.digest
    for arch in ("amd64", "arm64"):
        target = f"oci:{layout.folder}/{arch}:x"
        Path(f"{layout.folder}/{arch}").mkdir()
        source = f"docker://{repository}/many:1"
        skopeo("copy", "--src-tls-verify=false", "--override-arch", arch, source, target)


def test_from_one_registry_into_a_layout_and_back(
    pushed: str, repository: str, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    there = run(pushed, f"oci:{tmp_path / 'out'}:x", store, bundle)
    back = run(f"oci:{tmp_path / 'out'}:x", f"{repository}/back:1", store, bundle)
    assert there.digest == back.digest
    root = unpacked(parse(f"{repository}/back:1"), store, arch="amd64").rootfs
    assert (root / "etc/name").read_bytes() == b"base"
    assert (root / "openhands/server").is_file()


def test_the_doctor_reads_a_registry_image(pushed: str, store: Store) -> None:
    assert diagnose(parse(pushed), store, arch="amd64", quick=True).bytes_read == 0
    found = diagnose(parse(pushed), store, arch="amd64")
    assert found.usable
    assert found.bytes_read > 0


def test_an_unknown_name_and_an_unknown_digest(
    repository: str, pushed: str, store: Store, bundle: Bundle
) -> None:
    for name in (f"{repository}/nothing:1", f"{repository}/base:2", f"{repository}/base@sha256:{'0' * 64}"):
        with pytest.raises(NotFoundError, match="does not exist"):
            run(name, f"{repository}/run:1", store, bundle)


@pytest.mark.parametrize("how", ["changed", "truncated", "gone"])
def test_a_layer_that_went_bad_in_the_registry(
    how: str, pushed: str, store: Store, bundle: Bundle, registry: Any, layout: Any, tmp_path: Path
) -> None:
    layer = json.loads((layout.folder / "index.json").read_bytes())["manifests"][0]
    manifest = json.loads((layout.folder / "blobs/sha256" / layer["digest"][7:]).read_bytes())
    name = manifest["layers"][1]["digest"][7:]
    path = registry.root / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
    good = path.read_bytes()
    path.unlink() if how == "gone" else path.write_bytes(good[:-5] + (b"wrong" if how == "changed" else b""))
    try:
        with pytest.raises((VerificationError, TransportError, NotFoundError), match=name):
            run(pushed, f"oci-archive:{tmp_path / 'bad.tar'}:x", store, bundle)
        assert not (tmp_path / "bad.tar").exists()
    finally:
        path.write_bytes(good)


HTPASSWD = "jo:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def test_a_registry_with_a_password(
    layout: Any,
    store: Store,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start_registry: Any,
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    layout.image(FILES)
    extra = f"auth: {{htpasswd: {{realm: test, path: {tmp_path / 'htpasswd'}}}}}\n"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with start_registry(tmp_path / "registry", extra=extra) as private:
        target = f"{private.address}/run:1"
        with pytest.raises(TransportError, match="docker login"):
            run(f"oci:{layout.folder}:base", target, store, bundle)
        auth = base64.b64encode(b"jo:secret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {private.address: {"auth": auth}}}))
        report = run(f"oci:{layout.folder}:base", target, store, bundle)
        assert run(target, f"{private.address}/again:1", store, bundle).digest == report.digest

"""`graftbox verify` against a real registry and Docker; a byte is changed where they store it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import Registry, program, running_registry

from graftbox.errors import GraftboxError
from graftbox.image.bundle_image import push_bundle
from graftbox.image.graft import Bundle
from graftbox.image.place import graft_image
from graftbox.image.platforms import machine_architecture
from graftbox.image.reference import parse
from graftbox.image.verify import Question, Verdict, verify
from graftbox.store import Store

FILES = [{"etc/name": b"base"}, {"bin/tool": b"\x7fELF" * 1000}]
Check = Callable[..., Verdict]


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """A registry whose storage a test may damage."""
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def image(layout: Any, own: Registry, store: Store, bundle: Bundle, skopeo: Callable[..., str]) -> str:
    layout.image(FILES, process={"Env": ["A=b"], "Cmd": ["/bin/tool"], "User": "7"})
    base = f"docker://{own.address}/base:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.folder}:base", base)
    graft_image(parse(base), parse(f"{own.address}/run:1"), {"amd64": bundle}, store)
    return f"docker://{own.address}/run:1"


@pytest.fixture
def check(store: Store, bundle: Bundle) -> Check:
    def run(image: str, **more: Any) -> Verdict:
        known = more.pop("known", lambda digest, arch: [bundle] if digest == bundle.digest else [])
        return verify(Question(parse(image), known, store, **more))

    return run


def stored(registry: Registry, digest: str) -> Path:
    """The file in which docker-registry keeps a blob."""
    value = digest.removeprefix("sha256:")
    return registry.root / f"docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data"


def requests(registry: Registry) -> list[str]:
    return re.findall(r'"((?:GET|HEAD|PUT|POST|PATCH) \S+)', registry.log.read_text())


def test_the_registry_alone_is_enough(
    image: str, own: Registry, check: Check, bundle: Bundle, store: Store
) -> None:
    push_bundle({"amd64": bundle}, parse(f"{own.address}/bundle:1"), store)
    before = len(requests(own))
    verdict = check(image, known=lambda digest, arch: [], bundle=parse(f"{own.address}/bundle:1"))
    assert verdict.ok, verdict.all_differences
    asked = requests(own)[before:]
    layers = [line for line in asked if "/blobs/" in line and line.startswith("GET")]
    assert len(layers) == 3, "the configs of the image, its base and the bundle, and no layer"
    assert not any(line.startswith(("PUT", "POST", "PATCH")) for line in asked)


def test_the_base_is_found_by_its_digest_after_its_tag_has_moved(
    image: str, layout: Any, own: Registry, check: Check, skopeo: Callable[..., str]
) -> None:
    layout.image([{"other": b""}], tag="moved")
    base = f"docker://{own.address}/base:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.folder}:moved", base)
    assert check(image).ok
    (difference,) = check(image, base=parse(base)).all_differences
    assert difference.where == "base"


@pytest.mark.parametrize("part", ["manifest", "config", "layer of the base", "layer of the bundle"])
def test_a_byte_that_changes_in_the_registrys_storage_is_found(
    image: str, own: Registry, check: Check, part: str, skopeo: Callable[..., str]
) -> None:
    digest = check(image, layers=True).digest
    manifest = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", image))
    named = {
        "manifest": digest,
        "config": manifest["config"]["digest"],
        "layer of the base": manifest["layers"][0]["digest"],
        "layer of the bundle": manifest["layers"][-1]["digest"],
    }
    path = stored(own, named[part])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    try:
        verdict = check(image, layers=True)
    except GraftboxError:
        # docker-registry itself refuses to serve a manifest that is no longer JSON.
        if part != "manifest":
            raise
        return
    assert not verdict.ok
    assert verdict.all_differences[0].where.startswith(part.split()[0])


def test_a_layer_that_the_registry_has_lost(
    image: str, own: Registry, check: Check, skopeo: Callable[..., str]
) -> None:
    manifest = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", image))
    stored(own, manifest["layers"][1]["digest"]).unlink()
    (difference,) = check(image).all_differences
    assert difference.where.startswith("layer 2 ")


def test_what_another_tool_adds_is_named(
    image: str, own: Registry, check: Check, tmp_path: Path, skopeo: Callable[..., str]
) -> None:
    """umoci is the judge: it changes the image as people do, and skopeo takes both for sound images."""
    umoci = program("umoci")
    folder = tmp_path / "changed"
    skopeo("copy", "--src-tls-verify=false", image, f"oci:{folder}:run")
    assert check(f"oci:{folder}:run").ok, "a copy is as good as the original"
    subprocess.run([umoci, "config", "--image", f"{folder}:run", "--config.env", "EVIL=1"], check=True)
    skopeo("inspect", f"oci:{folder}:run")
    where = {one.where for one in check(f"oci:{folder}:run").all_differences}
    assert {"config.config.Env", "config.config.Env[1]"} <= where
    changed = f"docker://{own.address}/changed:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{folder}:run", changed)
    assert not check(changed).ok


def test_an_image_that_docker_took_over(
    layout: Any, dockerd: Any, store: Store, bundle: Bundle, arm_bundle: Bundle, check: Check
) -> None:
    arch = machine_architecture()
    own = arm_bundle if arch == "arm64" else bundle
    layout.image(FILES, arch=arch, process={"Env": ["A=b"]})
    base, target = f"oci:{layout.folder}:base", "docker-daemon:graft-test/verified:1"
    try:
        graft_image(parse(base), parse(target), {arch: own}, store)
        verdict = check(target, known=lambda *_: [own], base=parse(base), layers=True)
        assert verdict.ok, verdict.all_differences
        changed = "docker-daemon:graft-test/changed:1"
        container = dockerd("create", "graft-test/verified:1")
        dockerd("commit", "--change", "ENV EVIL=1", container, "graft-test/changed:1")
        dockerd("rm", container)
        assert not check(changed, known=lambda *_: [own], base=parse(base)).ok
    finally:
        dockerd("rmi", "--force", "graft-test/verified:1", "graft-test/changed:1", check=False)

"""Images whose bundle layers are zstd or eStargz, in a real registry, pulled and unpacked by podman."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration import bases
from tests.integration.conftest import Registry
from tests.integration.test_bundle_push import CORE, PYTHON, graftbox

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"


@pytest.mark.parametrize("form", ["zstd", "estargz"])
def test_podman_unpacks_an_image_with_layers_of_each_form(
    form: str,
    registry: Registry,
    podman: Callable[..., str],
    skopeo: Callable[..., str],
    tmp_path: Path,
) -> None:
    compressed = ("--component", "core", "--compression", form)
    base, name = f"{registry.address}/forms/base:1", f"{registry.address}/forms/{form}:1"
    # Docker's own types, which have no zstd and no annotations.
    skopeo(
        "copy", "--quiet", "--format=v2s2", "--dest-tls-verify=false",
        bases.reference("busybox"), f"docker://{base}",
    )  # fmt: skip
    graftbox("bundle", "build", *CORE, "--compression", form)
    assert graftbox("bundle", "verify", *CORE, "--compression", form)["ok"]
    graftbox("graft", base, name, *compressed)
    manifest: dict[str, Any] = json.loads(
        skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    )
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    ours = manifest["layers"][-2:]
    suffix = "zstd" if form == "zstd" else "gzip"
    assert {layer["mediaType"].rpartition("+")[2] for layer in ours} == {suffix}
    assert all((TOC_DIGEST in layer.get("annotations", {})) is (form == "estargz") for layer in ours)
    skopeo("copy", "--quiet", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path / 'copy'}")
    assert graftbox("verify", name, "--layers")["ok"]
    podman("pull", "--quiet", "--tls-verify=false", name)
    container = podman("create", name).split()[-1]
    podman("export", "--output", str(tmp_path / "root.tar"), container)
    with tarfile.open(tmp_path / "root.tar") as archive:
        names = archive.getnames()
    assert {PYTHON.removeprefix("/"), "openhands/bin/action-execution-server", "bin/busybox"} <= {*names}
    assert ("stargz.index.json" in names) is (form == "estargz")

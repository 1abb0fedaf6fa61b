from __future__ import annotations

import dataclasses

import pytest

from graftbox.bundle.manifest import BundleManifest, Layer, parse
from graftbox.errors import FormatError

LAYER = Layer("core", "core", "sha256:" + "1" * 64, "sha256:" + "2" * 64, 10, 5, 1)
MANIFEST = BundleManifest("amd64", "tree", "sha256:" + "3" * 64, ("core",), (LAYER,))


def test_a_manifest_survives_its_file() -> None:
    assert parse(MANIFEST.to_json(), "x") == MANIFEST


def test_the_digest_is_that_of_what_runs() -> None:
    assert dataclasses.replace(MANIFEST, lock="sha256:other", version="9").digest == MANIFEST.digest
    assert dataclasses.replace(MANIFEST, arch="arm64").digest != MANIFEST.digest


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", MANIFEST.to_json()[:-20], MANIFEST.to_json().replace(b"111", b"112")]
)
def test_a_damaged_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="The bundle manifest x is damaged"):
        parse(data, "x")

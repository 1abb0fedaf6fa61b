"""The SBOM of a bundle, and what graft refuses to attach or sign."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from graftbox.bundle.lock import Lock, LockedArchitecture, LockedModule, LockedPackage, LockedWheel
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.sbom import of_metadata, sbom
from graftbox.cli.graft import graft
from graftbox.cli.sbom import sign, signer
from graftbox.errors import NotFoundError, TransportError, UnsupportedError
from graftbox.store import Store, digest_of

DEP5 = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+

Files: x
License: Expat
"""
FILES = {
    "openhands/share/doc/tool/copyright": DEP5,
    "openhands/share/doc/old/copyright": b"Copyright: me\nLicense: as you like\n",
    "openhands/lib/python3/Some_Thing-1.0.dist-info/METADATA": b"Name: x\nLicense-Expression: MIT\n",
    "openhands/lib/python3/Some_Thing-1.0.dist-info/licenses/LICENSE": b"MIT",
    "openhands/lib/python3/Some_Thing-1.0.dist-info/licenses/more/COPYING.txt": b"MIT too",
    "openhands/x/node_modules/@scope/module/package.json": (
        b'{"name": "@scope/module", "version": "2.0.0", "license": {"type": "ISC"}}'
    ),
    "openhands/x/node_modules/@scope/module/LICENSE.md": b"ISC",
    "openhands/x/node_modules/@scope/module/esm/package.json": b'{"type": "module"}',
}
LOCK = Lock(
    recipe="sha256:" + "0" * 64,
    suites={"trixie": "2026-01-01T00:00:00Z"},
    architectures={
        "amd64": LockedArchitecture(
            packages=tuple(
                LockedPackage(
                    name,
                    "1:2.0+b1~x",
                    "debian",
                    f"pool/{name}_2.0_amd64.deb",
                    5,
                    "ab" * 32,
                    f"{name}-src (1:2.0)",
                    "",
                    ("core",),
                )
                for name in ("tool", "old")
            ),
            wheels=(
                LockedWheel("some-thing", "1.0", "some_thing-1.0-py3-none-any.whl", 5, "cd" * 32, ("core",)),
                LockedWheel("absent", "1.0", "absent-1.0-py3-none-any.whl", 5, "cd" * 32, ("browser",)),
            ),
            modules=(
                LockedModule(
                    "@scope/module",
                    "2.0.0",
                    "sha512-" + "A" * 86 + "==",
                    5,
                    "ef" * 32,
                    ("x/node_modules/@scope/module",),
                    ("core",),
                ),
            ),
        )
    },
)


@pytest.fixture
def made(store: Store, tar_of: Callable[..., bytes]) -> BundleManifest:
    """A bundle of one layer, in two gzip members as real ones are."""
    tar = tar_of(FILES)
    blob = gzip.compress(tar[:1000], mtime=0) + gzip.compress(tar[1000:], mtime=0)
    layer = Layer("core", "core", store.put(blob), digest_of(tar), len(tar), len(blob), 3)
    return BundleManifest("amd64", "tree", LOCK.digest, ("core",), (layer,))


def test_every_package_has_its_address_hash_and_licence(made: BundleManifest, store: Store) -> None:
    data = sbom(made, LOCK, store)
    document = json.loads(data)
    found = {one["name"]: one for one in document["components"]}
    assert set(found) == {"tool", "old", "some-thing", "@scope/module"}
    assert found["tool"]["purl"] == "pkg:deb/debian/tool@1%3A2.0%2Bb1~x?arch=amd64&distro=trixie"
    assert found["tool"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert [one["license"]["name"] for one in found["tool"]["licenses"]] == ["Expat", "GPL-2+"]
    assert "licenses" not in found["old"], "a copyright file without a format says nothing that can be read"
    assert found["some-thing"]["purl"] == "pkg:pypi/some-thing@1.0"
    assert found["some-thing"]["licenses"] == [{"license": {"name": "MIT"}}]
    properties = {one["name"]: one["value"] for one in document["metadata"]["component"]["properties"]}
    assert properties["graftbox:bundle"] == made.digest
    assert properties["graftbox:lock"] == LOCK.digest


def test_licence_texts_are_named_where_they_lie(made: BundleManifest, store: Store) -> None:
    found = {one["name"]: one for one in json.loads(sbom(made, LOCK, store))["components"]}

    def files(name: str) -> list[str]:
        return [one["value"] for one in found[name]["properties"] if one["name"] == "graftbox:licence-file"]

    assert files("tool") == ["/openhands/share/doc/tool/copyright"]
    assert files("some-thing") == [
        "/openhands/lib/python3/Some_Thing-1.0.dist-info/licenses/LICENSE",
        "/openhands/lib/python3/Some_Thing-1.0.dist-info/licenses/more/COPYING.txt",
    ]
    assert files("@scope/module") == ["/openhands/x/node_modules/@scope/module/LICENSE.md"]
    assert found["@scope/module"]["licenses"] == [{"license": {"name": "ISC"}}]
    assert found["@scope/module"]["purl"] == "pkg:npm/%40scope/module@2.0.0"


def test_debian_packages_name_the_source_that_they_were_built_from(
    made: BundleManifest, store: Store
) -> None:
    found = {one["name"]: one for one in json.loads(sbom(made, LOCK, store))["components"]}
    (source,) = found["tool"]["pedigree"]["ancestors"]
    assert source["purl"] == "pkg:deb/debian/tool-src@1%3A2.0?arch=source"
    assert "pedigree" not in found["some-thing"]


def test_licences_are_read_from_layers_of_every_form(
    store: Store, tar_of: Callable[..., bytes], made: BundleManifest
) -> None:
    zstd = pytest.importorskip("backports.zstd", reason="needs the package backports.zstd")
    tar = tar_of(FILES)
    layer = Layer("core", "core", store.put(zstd.compress(tar)), digest_of(tar), len(tar), 1, 3, "zstd")
    document = json.loads(sbom(dataclasses.replace(made, layers=(layer,)), LOCK, store))
    assert document["components"] == json.loads(sbom(made, LOCK, store))["components"]


def test_the_document_is_valid_cyclonedx(made: BundleManifest, store: Store) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_5)
    assert validator.validate_str(sbom(made, LOCK, store).decode()) is None


def test_the_same_bundle_has_the_same_sbom(made: BundleManifest, store: Store, tmp_path: Path) -> None:
    first = sbom(made, LOCK, store)
    assert sbom(made, LOCK, store) == first, "from the record of its licences"
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.put(store.blob_path(made.layers[0].digest).read_bytes())
    assert sbom(made, LOCK, elsewhere) == first
    assert b"://" not in first


def test_a_layer_that_is_gone(made: BundleManifest, store: Store) -> None:
    store.blob_path(made.layers[0].digest).unlink()
    with pytest.raises(NotFoundError, match="bundle build"):
        sbom(made, LOCK, store)


@pytest.mark.parametrize(
    ("metadata", "licences"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: other\n", ["MIT OR Apache-2.0"]),
        ("License: BSD\n", ["BSD"]),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", ["MIT License"]),
        ("License: a long\n  text of a licence\nClassifier: License :: OSI Approved :: X\n", ["X"]),
        ("Name: x\n", []),
    ],
)
def test_what_a_wheel_says_of_its_licence(metadata: str, licences: list[str]) -> None:
    assert of_metadata(metadata) == licences


def test_only_images_in_registries_are_attested(layout: Any, tmp_path: Path) -> None:
    target = f"oci:{tmp_path / 'out'}:run"
    done = CliRunner().invoke(graft, ["scratch", target, "--attest"])
    assert done.exit_code == 2
    assert "not in a registry" in done.output
    done = CliRunner().invoke(graft, ["--from", "x", "--to-repo", "docker-daemon:x/y", "--attest"])
    assert "docker-daemon:x/y is not in a registry" in done.output


def test_a_signing_program_that_is_missing_is_said_before_anything_is_pushed() -> None:
    with pytest.raises(UnsupportedError, match="no-such-signer is not installed"):
        CliRunner().invoke(
            graft, ["scratch", "localhost:1/x:1", "--sign-with", "no-such-signer"], catch_exceptions=False
        )


@pytest.fixture
def cosign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in cosign's place that writes down how it was called."""
    program = tmp_path / "bin" / "cosign"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\necho signed\n[ "$1" = sign ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path / "called"


def test_a_signing_program_is_given_the_digest(cosign: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = "localhost:1/x@sha256:" + "0" * 64
    sign(image, "cosign")
    assert cosign.read_text() == f"sign --yes {image}\n"
    sign(image, "cosign sign --key 'my key'")
    assert cosign.read_text() == f"sign --key my key {image}\n"
    with pytest.raises(TransportError, match="not signed"):
        sign(image, "cosign verify")
    assert capfd.readouterr().out == "", "standard output is graft's"
    assert signer("cosign")[0] == "cosign"

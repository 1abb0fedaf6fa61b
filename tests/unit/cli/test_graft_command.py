"""The graft command: what it prints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.conftest import make_bundle

from graftbox.bundle import build, known
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.cli.graft import graft
from graftbox.errors import GraftboxError, UsageError
from graftbox.image.graft import Bundle
from graftbox.store import Store


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, store: Store, bundle: Bundle) -> None:
    """A machine on which a (small) bundle for amd64 is already built."""
    layers = [
        Layer(one.name, one.component, one.digest, one.diff_id, one.size, one.compressed_size, 2)
        for one in bundle.layers
    ]
    manifest = BundleManifest("amd64", "tree", "sha256:lock", ("core",), tuple(layers))
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))
    monkeypatch.setattr(known, "current", lambda arch, *_, **__: manifest if arch == "amd64" else None)


def run(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(graft, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    parsed = json.loads(done.stdout)
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.usefixtures("built")
def test_json_says_what_was_made_and_what_was_sent(layout: Any, tmp_path: Path) -> None:
    layout.image([{"a": b"1"}])
    report = run(f"oci:{layout.folder}:base", f"oci:{tmp_path / 'out'}:run", "--platform", "linux/amd64")
    assert {"image", "digest", "tags", "layers_sent", "bytes_sent", "seconds"} <= set(report)
    assert report["image"] == f"oci:{tmp_path / 'out'}:run"
    assert report["tags"] == ["run"]
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == report["digest"]


@pytest.mark.usefixtures("built")
def test_options_reach_the_image(layout: Any, tmp_path: Path) -> None:
    layout.image([{"a": b"1"}], process={"Cmd": ["serve"]})
    out = tmp_path / "out"
    options = ["--platform", "amd64", "--user", "7:7", "--keep-entrypoint", "--tag", "more"]
    report = run(f"oci:{layout.folder}:base", f"oci:{out}:run", *options)
    assert report["tags"] == ["run", "more"]
    manifest = json.loads((out / "blobs/sha256" / report["digest"][7:]).read_bytes())
    config = json.loads((out / "blobs/sha256" / manifest["config"]["digest"][7:]).read_bytes())["config"]
    assert config["User"] == "7:7"
    assert config["Cmd"] == ["serve"]
    assert config["Entrypoint"][-1] == "--"


@pytest.mark.usefixtures("built")
def test_people_get_two_lines(layout: Any, tmp_path: Path) -> None:
    layout.image([{"a": b"1"}])
    arguments = [f"oci:{layout.folder}:base", f"oci:{tmp_path / 'out'}:run", "--platform", "amd64"]
    done = CliRunner().invoke(graft, arguments, catch_exceptions=False)
    assert len(done.stdout.splitlines()) == 2
    assert "linux/amd64" in done.stdout


def test_a_mistyped_reference_is_found_before_a_bundle_is_built() -> None:
    with pytest.raises(UsageError, match="lower-case"):
        CliRunner().invoke(graft, ["Ubuntu", "oci:x"], catch_exceptions=False)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--tag", "bad tag"], "'bad tag' is not a tag"),
        (["--user", "a b"], "a user's name or number"),
        (["--user", "a:b:c"], "a user's name or number"),
    ],
)
def test_what_no_image_can_have_is_refused_before_anything_is_written(
    options: list[str], complaint: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(graft, ["scratch", f"oci:{tmp_path / 'out'}", *options])
    assert done.exit_code != 0
    assert complaint in (done.output or str(done.exception)) + str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_wrong_base_is_noticed_before_a_bundle_is_built(
    monkeypatch: pytest.MonkeyPatch, store: Store, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAFTBOX_CACHE", str(store.root))
    done = CliRunner().invoke(graft, [f"oci:{tmp_path / 'none'}", f"oci:{tmp_path / 'out'}"])
    assert isinstance(done.exception, GraftboxError)
    assert "is not an OCI layout" in str(done.exception)
    assert "building" not in done.stderr


@pytest.mark.usefixtures("built")
def test_the_bundle_is_merged_where_that_is_asked_for_or_needed(
    layout: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = known.current("amd64")
    assert apart is not None
    one = make_bundle(store, salt="merged").layers[0]
    layer = Layer("components", "core", one.digest, one.diff_id, one.size, one.compressed_size, 2)
    merged = dataclasses.replace(apart, layers=(layer,))
    asked: list[bool] = []

    def current(arch: str, *question: object, merged_too: BundleManifest = merged) -> BundleManifest | None:
        asked.append(bool(question[-1]))
        return None if arch != "amd64" else merged_too if question[-1] else apart

    monkeypatch.setattr(known, "current", current)
    monkeypatch.setattr(build, "build", lambda **named: {True: merged}[named["merged"]])
    layout.image([{"a": b"1"}], tag="flat")
    layout.image([{"a": str(number).encode()} for number in range(124)], tag="deep")
    for tag, options, depth in (("flat", (), 3), ("flat", ("--merge",), 2), ("deep", (), 125)):
        out = f"oci:{tmp_path / 'out'}:run"
        made = run(f"oci:{layout.folder}:{tag}", out, "--platform", "linux/amd64", *options)
        manifest = json.loads((tmp_path / "out/blobs/sha256" / made["digest"][7:]).read_bytes())
        assert len(manifest["layers"]) == depth
    assert asked == [False, True, False]

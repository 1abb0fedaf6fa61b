"""No change of a grafted image, however small or well made, gets past `verify`."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graftbox.image.graft import Bundle
from graftbox.image.manifest import serialise
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.verify import Question, Verdict, verify
from graftbox.store import Store, digest_of

FILES = [{"etc/name": b"base"}, {"bin/tool": b"\x7fELF" * 500}]
several = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def grafted(layout: Any, store: Store, bundle: Bundle, tmp_path: Path) -> Path:
    """A layout with one runtime image."""
    layout.image(FILES, process={"Env": ["A=b"], "Cmd": ["/x"], "User": "7", "Labels": {"who": "me"}})
    base, target = parse(f"oci:{layout.folder}:base"), parse(f"oci:{tmp_path / 'out'}:run")
    graft_image(base, target, {"amd64": bundle}, store, platform="linux/amd64", user="0")
    return tmp_path / "out"


@pytest.fixture
def check(layout: Any, store: Store, bundle: Bundle) -> Callable[[Path], Verdict]:
    def run(folder: Path) -> Verdict:
        base = parse(f"oci:{layout.folder}:base")
        return verify(
            Question(parse(f"oci:{folder}:run"), lambda digest, arch: [bundle], store, base, layers=True)
        )

    return run


def blobs(folder: Path) -> list[Path]:
    return sorted((folder / "blobs" / "sha256").iterdir())


@several
@given(data=st.data())
def test_any_byte_of_any_blob_counts(
    data: st.DataObject, grafted: Path, check: Callable[[Path], Verdict]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(grafted, Path(name) / "copy"))
        path = data.draw(st.sampled_from(blobs(folder)))
        content = bytearray(path.read_bytes())
        how = data.draw(st.sampled_from(["flip", "cut", "add", "delete"]))
        position = data.draw(st.integers(0, len(content) - 1))
        if how == "flip":
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del content[position:]
        elif how == "add":
            content.insert(position, data.draw(st.integers(0, 255)))
        path.write_bytes(content)
        if how == "delete":
            assume(path.name != manifest_of(folder))  # no image any more: an error, and no verdict
            path.unlink()
        assert not check(folder).ok


def manifest_of(folder: Path) -> str:
    entry = json.loads((folder / "index.json").read_bytes())["manifests"][0]
    return str(entry["digest"]).removeprefix("sha256:")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a parsed JSON document."""
    found = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


@several
@given(data=st.data())
def test_any_field_counts_even_if_every_digest_is_made_right_again(
    data: st.DataObject, grafted: Path, check: Callable[[Path], Verdict]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(grafted, Path(name) / "copy"))
        manifest = json.loads((folder / "blobs" / "sha256" / manifest_of(folder)).read_bytes())
        config_name = manifest["config"]["digest"].removeprefix("sha256:")
        config = json.loads((folder / "blobs" / "sha256" / config_name).read_bytes())
        document = data.draw(st.sampled_from([manifest, config]))
        before = copy.deepcopy(document)
        container, key = data.draw(st.sampled_from(places(document)))
        how = data.draw(st.sampled_from(["delete", "replace", "add"]))
        value: Any = data.draw(st.none() | st.text(max_size=4) | st.integers(0, 9) | st.just([]))
        if how == "delete":
            del container[key]
        elif how == "replace":
            container[key] = value
        elif isinstance(container, dict):
            container[f"{key}x"] = value
        else:
            container.insert(key, value)
        assume(document != before)
        if document is config:
            manifest["config"] |= stored(folder, serialise(config))
        entry = json.loads((folder / "index.json").read_bytes())["manifests"][0]
        entry |= stored(folder, serialise(manifest))
        (folder / "index.json").write_bytes(serialise({"schemaVersion": 2, "manifests": [entry]}))
        assert not check(folder).ok


def stored(folder: Path, data: bytes) -> dict[str, Any]:
    digest = digest_of(data)
    (folder / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(data)
    return {"digest": digest, "size": len(data)}

"""What built images begin with: as a graft of the same base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftbox.cli.beginning import beginning
from graftbox.cli.ways import Wanted, image_facts
from graftbox.errors import UnsupportedError
from graftbox.image.dockerfile import copy
from graftbox.image.graft import (
    BASE_CMD,
    BASE_DIGEST,
    BASE_ENTRYPOINT,
    BASE_USER,
    BUNDLE,
    LAYERS,
    SERVER,
    Bundle,
)
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.image.transports import Access
from graftbox.store import Store

PROCESS = {"Entrypoint": ["/init", "a b"], "Cmd": ["--serve", '$HOME "x"'], "User": "7"}


def wanted(base: str, **more: Any) -> Wanted:
    return Wanted(base, Access(), "copy", "podman", platform="linux/amd64", **more)


@pytest.fixture
def base(layout: Any) -> str:
    layout.image([{"etc/name": b"base"}], process=PROCESS)
    return f"oci:{layout.folder}:base"


def test_a_built_image_records_of_its_base_what_a_graft_records(
    base: str, store: Store, bundle: Bundle, tmp_path: Path
) -> None:
    found = beginning(parse(base), bundle, wanted(base, user="8"), store)
    assert found
    assert found["Entrypoint"] == list(SERVER)
    target = tmp_path / "out"
    graft_image(parse(base), parse(f"oci:{target}:run"), {"amd64": bundle}, store, user="8")
    blobs = [json.loads(blob.read_bytes()) for blob in _small(target)]
    (config,) = [blob["config"] for blob in blobs if "rootfs" in blob]
    names = (BASE_CMD, BASE_DIGEST, BASE_ENTRYPOINT, BASE_USER)
    image = image_facts(parse("docker://h.test/x:1"), wanted(base), bundle, found)
    assert {name: image.labels[name] for name in names} == {name: config["Labels"][name] for name in names}
    assert image.labels[BUNDLE] == bundle.digest
    assert LAYERS not in image.labels, "a builder makes other layers"


def _small(folder: Path) -> list[Path]:
    return [blob for blob in (folder / "blobs/sha256").iterdir() if blob.read_bytes()[:1] == b"{"]


def test_the_entrypoint_that_is_kept_follows_the_server(base: str, store: Store, bundle: Bundle) -> None:
    asked = wanted(base, keep_entrypoint=True)
    found = beginning(parse(base), bundle, asked, store)
    text = copy(image_facts(parse("docker://h.test/x:1"), asked, bundle, found), "b:1")
    first, second = text.splitlines()[-2:]
    assert first == f"ENTRYPOINT {json.dumps([*SERVER, '--', '/init', 'a b'])}"
    assert second == f"CMD {json.dumps(PROCESS['Cmd'])}"


def test_a_base_that_nobody_can_read_is_no_matter_unless_its_entrypoint_is_kept(
    store: Store, bundle: Bundle
) -> None:
    nobody = "docker://127.0.0.1:1/x:1"
    assert beginning(parse(nobody), bundle, wanted(nobody), store) is None
    with pytest.raises(UnsupportedError, match=r"127\.0\.0\.1:1/x:1 is to be kept, but cannot be read"):
        beginning(parse(nobody), bundle, wanted(nobody, keep_entrypoint=True), store)


def test_an_empty_base_has_nothing_to_keep(store: Store, bundle: Bundle) -> None:
    asked = wanted("scratch", keep_entrypoint=True)
    found = beginning(parse("scratch"), bundle, asked, store)
    assert found
    assert found["Entrypoint"] == list(SERVER)
    assert "Cmd" not in found

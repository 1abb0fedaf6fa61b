"""Pruning a real repository."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from benchmarks.planted import plant
from click.testing import CliRunner

from graftbox.cli import prune as command
from graftbox.errors import NotFoundError, UnsupportedError
from graftbox.image.attestation import attest
from graftbox.image.graft import Bundle
from graftbox.image.reference import parse
from graftbox.image.referrers import fallback_tag
from graftbox.image.reuse import Outcome, obtain
from graftbox.image.tags import Choice, repository
from graftbox.image.transports import Access
from graftbox.store import Store


@pytest.fixture
def own(start_registry: Any, tmp_path: Path) -> Iterator[Any]:
    with start_registry(tmp_path / "registry") as running:
        yield running


def made(own: Any, base: str, store: Store, bundle: Bundle) -> Outcome:
    target = repository(f"{own.address}/team/rt")
    return obtain(parse(base), target, Choice({"amd64": bundle}), store, Access())


def tags(own: Any) -> set[str]:
    found = httpx2.get(f"http://{own.address}/v2/team/rt/tags/list", trust_env=False)
    return set(found.json().get("tags") or []) if found.status_code == 200 else set()


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch, other_bundle: Bundle) -> None:
    """A machine whose bundle is ``other_bundle``."""
    monkeypatch.setattr(
        command,
        "current_bundle",
        lambda components, arch, form, flavor, merged: other_bundle.digest if form == "gzip" else None,
    )


@pytest.mark.usefixtures("today")
@pytest.mark.parametrize("docker", [False, True])
def test_images_of_an_older_bundle_go_and_todays_stay(
    docker: bool, own: Any, store: Store, bundle: Bundle, other_bundle: Bundle, skopeo: Any
) -> None:
    bases = list(plant(own, "bases", 3, docker=docker))
    old = [made(own, base, store, bundle) for base in bases]
    new = made(own, bases[0], store, other_bundle)
    repo = f"{own.address}/team/rt"
    plain = ("-q", "--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", *plain, f"docker://{bases[0]}", f"docker://{repo}:mine")
    skopeo("copy", *plain, f"docker://{old[2].image}", f"docker://{repo}:pinned-by-hand")
    before = tags(own)

    dry = CliRunner().invoke(command.prune, ["--repo", repo, "--dry-run", "--json"], catch_exceptions=False)
    told = [json.loads(line) for line in dry.stdout.splitlines()]
    assert {item["digest"] for item in told if item["stale"]} == {old[0].digest, old[1].digest}
    assert tags(own) == before

    done = CliRunner().invoke(command.prune, ["--repo", repo], catch_exceptions=False)
    assert done.exit_code == 0
    assert "2 images removed, 2 kept" in done.stderr
    assert "also tagged pinned-by-hand" in done.stdout
    kept = {"mine", "pinned-by-hand", *new.tags, *old[2].tags}
    # The versioned tag of the first base has moved on to the new image.
    assert tags(own) == kept
    again = CliRunner().invoke(command.prune, ["--repo", repo], catch_exceptions=False)
    assert "0 images removed" in again.stderr
    assert made(own, bases[0], store, other_bundle).status == "present"


@pytest.mark.usefixtures("today")
def test_an_image_whose_form_of_layers_is_not_built_here_is_kept(
    own: Any, store: Store, bundle: Bundle
) -> None:
    (base,) = plant(own, "bases", 1)
    layers = tuple(dataclasses.replace(layer, compression="zstd") for layer in bundle.layers)
    made(own, base, store, dataclasses.replace(bundle, layers=layers))
    done = CliRunner().invoke(command.prune, ["--repo", f"{own.address}/team/rt"], catch_exceptions=False)
    assert "0 images removed, 1 kept" in done.stderr
    assert "with zstd layers, is not built here" in done.stdout


@pytest.mark.usefixtures("today")
def test_what_is_attached_to_an_image_goes_with_it(
    own: Any, store: Store, bundle: Bundle, other_bundle: Bundle
) -> None:
    bases = list(plant(own, "bases", 2))
    old, kept = made(own, bases[0], store, bundle), made(own, bases[1], store, other_bundle)
    for outcome, held in ((old, bundle), (kept, other_bundle)):
        attest(parse(outcome.image), outcome.digest, {"amd64": held}, lambda _: b'{"bomFormat": "CycloneDX"}')
    assert {fallback_tag(old.digest), fallback_tag(kept.digest)} <= tags(own)
    done = CliRunner().invoke(command.prune, ["--repo", f"{own.address}/team/rt"], catch_exceptions=False)
    assert "1 images removed, and 3 things that were attached to them, 1 kept" in done.stderr
    assert tags(own) == {fallback_tag(kept.digest), *kept.tags}


def test_what_cannot_be_judged_is_kept(
    own: Any, store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "current_bundle", lambda *_: None)
    (base,) = plant(own, "bases", 1)
    made(own, base, store, bundle)
    done = CliRunner().invoke(command.prune, ["--repo", f"{own.address}/team/rt"], catch_exceptions=False)
    assert "0 images removed, 1 kept" in done.stderr
    assert "not built here" in done.stdout


@pytest.mark.usefixtures("today")
def test_a_registry_that_forbids_deleting_is_explained(
    own: Any,
    store: Store,
    bundle: Bundle,
    start_registry: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "REGISTRY_STORAGE_DELETE_ENABLED", "false")
    with start_registry(tmp_path / "strict") as strict:
        (base,) = plant(strict, "bases", 1)
        made(strict, base, store, bundle)
        with pytest.raises(UnsupportedError, match="REGISTRY_STORAGE_DELETE_ENABLED"):
            CliRunner().invoke(command.prune, ["--repo", f"{strict.address}/team/rt"], catch_exceptions=False)
        assert len(tags(strict)) == 3


def test_an_unknown_repository(own: Any) -> None:
    with pytest.raises(NotFoundError, match="no repository"):
        CliRunner().invoke(command.prune, ["--repo", f"{own.address}/nothing"], catch_exceptions=False)

from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.bundle import build, known
from graftbox.bundle.build import Job
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.errors import GraftboxError
from graftbox.store import Store

COMPONENTS = ("core",)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def built(store: Store, data: bytes = b"layer") -> BundleManifest:
    """A bundle of one layer, as `build` leaves it."""
    digest = store.put(data)
    layer = Layer("core", "core", digest, digest, len(data), len(data), 1)
    return Job.of(arch="amd64", components=COMPONENTS, store=store).save([layer])


def asked(store: Store) -> BundleManifest | None:
    return known.current("amd64", COMPONENTS, store)


@pytest.fixture
def answered(store: Store, monkeypatch: pytest.MonkeyPatch) -> BundleManifest:
    """A bundle that was asked for once; whoever reads recipe and lock again fails."""
    made = built(store)
    assert asked(store) == made

    def fails(flavor: str) -> type[Job]:
        raise AssertionError("recipe and lock were read again")

    monkeypatch.setattr(build, "job_class", fails)
    return made


def test_an_empty_cache_knows_no_bundle_and_stays_empty(store: Store) -> None:
    assert asked(store) is None
    assert not store.root.exists()


def test_that_a_bundle_is_not_built_is_told_without_recipe_and_lock_until_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.folder()
    assert asked(store) is None
    made = built(store)
    monkeypatch.setattr(build, "job_class", None)
    assert asked(store) == made


def test_the_same_question_is_answered_without_recipe_and_lock(
    store: Store, answered: BundleManifest
) -> None:
    assert asked(store) == answered


@pytest.mark.parametrize(
    "other",
    [{"arch": "arm64"}, {"components": ("mcp",)}, {"components": None}, {"compression": "estargz"}],
)
def test_another_question_has_another_answer(
    other: dict[str, str], store: Store, answered: BundleManifest
) -> None:
    with pytest.raises(AssertionError, match="read again"):
        known.current(**{"arch": "amd64", "components": COMPONENTS, "store": store, **other})  # type: ignore[arg-type]  # of many types


def test_a_changed_lock_is_read(
    store: Store, answered: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFTBOX_LOCKS", str(tmp_path))
    assert asked(store) == answered, "a folder without locks changes nothing"
    (tmp_path / "openhands.lock.json").write_text("{}")
    with pytest.raises(AssertionError, match="read again"):
        asked(store)


def test_changed_code_of_the_server_is_read(
    store: Store, answered: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "graftbox"
    for name in known.READ:
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("x = 1\n")
    monkeypatch.setattr(known, "PACKAGE", package)
    with pytest.raises(AssertionError, match="read again"):
        asked(store)


@pytest.mark.parametrize("damage", [b"", b"../x", b"\0", b"\xff", b"bundles/amd64/x.json"])
def test_a_damaged_answer_is_none(damage: bytes, store: Store) -> None:
    made = built(store)
    assert asked(store) == made
    for answer in (store.root / known.FOLDER).iterdir():
        answer.write_bytes(damage)
    assert asked(store) == made


def test_a_layer_that_is_gone_or_was_cut_off_is_noticed(store: Store) -> None:
    layer = built(store).layers[0]
    assert asked(store) is not None
    store.blob_path(layer.digest).write_bytes(b"lay")
    assert asked(store) is None
    store.blob_path(layer.digest).unlink()
    assert asked(store) is None


def test_a_cache_without_room_for_the_answer_still_answers(store: Store) -> None:
    made = built(store)
    (store.root / known.FOLDER).write_bytes(b"")
    assert asked(store) == made


def test_a_component_that_does_not_exist_is_an_error_each_time(store: Store) -> None:
    for _ in range(2):
        with pytest.raises(GraftboxError):
            known.current("amd64", ("nonsense",), store)

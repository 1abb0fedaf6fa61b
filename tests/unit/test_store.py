from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graftbox.errors import FormatError, StorageError, VerificationError
from graftbox.store import WEEK, Store, cache_root, digest_of, storage_errors


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def leftovers(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder("tmp").iterdir())


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GRAFTBOX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "graftbox"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "graftbox"
    monkeypatch.setenv("GRAFTBOX_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


def test_a_blob_is_found_by_its_digest_and_only_at_its_size(store: Store) -> None:
    digest = store.put(b"some bytes")
    assert digest == digest_of(b"some bytes")
    assert store.blob_path(digest).read_bytes() == b"some bytes"
    assert store.has(digest)
    assert store.has(digest, 10)
    assert not store.has(digest, 9)
    assert not store.has(digest_of(b"other bytes"))


def test_other_bytes_than_expected_are_not_kept(store: Store) -> None:
    with pytest.raises(VerificationError, match="nothing was kept"):
        store.put_stream([b"a", b"b"], expected=digest_of(b"abc"))
    assert not store.has(digest_of(b"ab"))
    assert leftovers(store) == []


@pytest.mark.parametrize("digest", ["", "sha256:../../x", "md5:" + "0" * 64, "sha256:" + "G" * 64])
def test_what_is_no_digest_never_becomes_a_path(store: Store, digest: str) -> None:
    with pytest.raises(FormatError, match="not a sha256 digest"):
        store.blob_path(digest)


def test_a_write_that_breaks_off_leaves_nothing(store: Store) -> None:
    def interrupted() -> None:
        with store.temporary_folder() as folder, store.temporary_file():
            (folder / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert leftovers(store) == []


def test_a_folder_goes_even_while_a_child_still_writes_into_it(store: Store) -> None:
    program = (
        "import sys, itertools\nfor i in itertools.count():\n    open(f'{sys.argv[1]}/{i}', 'w').close()"
    )
    with store.temporary_folder() as folder:
        writer = subprocess.Popen([sys.executable, "-c", program, str(folder)], stderr=subprocess.DEVNULL)
        while not any(folder.iterdir()):
            assert writer.poll() is None
    assert list((store.root / "tmp").iterdir()) == []
    assert writer.wait(timeout=60) != 0


def test_what_killed_processes_left_is_swept_after_a_week(store: Store) -> None:
    for name, age in (("old", WEEK + 60), ("new", WEEK - 60)):
        folder = store.folder("tmp", f"{name}-folder")
        (folder / "file").touch()
        file = store.folder("tmp") / f"{name}.part"
        file.touch()
        for path in (folder, file):
            os.utime(path, (time.time() - age,) * 2)
    store.sweep()
    assert leftovers(store) == ["new-folder", "new.part"]


@pytest.mark.parametrize(
    ("number", "text"), [(28, "No space left"), (122, "No space left"), (30, "Cannot write")]
)
def test_the_disks_own_errors_say_what_to_do(number: int, text: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{text}.*GRAFTBOX_CACHE"), storage_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_a_cache_that_can_be_no_folder_is_told_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nowhere")):
        with pytest.raises(StorageError, match="Set GRAFTBOX_CACHE to a folder"):
            Store(place).put(b"x")

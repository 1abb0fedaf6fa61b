"""Where the server's sockets are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftbox.errors import StorageError
from graftbox.server.environment import Environment
from graftbox.server.runtime import claim, key_of


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket's; pytest's own are too deep."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_the_runtime_folder_is_private_and_one_without_a_server_is_removed(short_folder: Path) -> None:
    environment = Environment((f"XDG_RUNTIME_DIR={short_folder}".encode(),))
    used, lock = claim(environment, "/", "80")
    assert used.stat().st_mode & 0o777 == 0o700
    abandoned, other = short_folder / ".graftbox-1-81", short_folder / "other"
    for folder in (abandoned, other):
        folder.mkdir()
        (folder / "tmux").touch()
    for folder in (used, abandoned, other):
        os.utime(folder, (0, 0))
    new, another_lock = claim(environment, "/", None)
    assert sorted(short_folder.iterdir()) == sorted((used, new, other))
    os.close(lock)
    os.close(another_lock)


def test_the_next_server_gets_the_folder_of_the_last_and_a_second_one_does_not(short_folder: Path) -> None:
    environment = Environment((f"XDG_RUNTIME_DIR={short_folder}".encode(),))
    first, lock = claim(environment, "/", key_of(8000, None))
    beside, another_lock = claim(environment, "/", key_of(8000, None))
    assert beside != first
    os.close(lock)
    again, lock = claim(environment, "/", key_of(8000, None))
    assert again == first
    os.close(lock)
    os.close(another_lock)


def test_servers_are_told_apart_by_port_or_socket() -> None:
    assert key_of(8000, None) == "8000"
    assert key_of(0, None) is None
    assert key_of(None, "/run/a") == key_of(None, "/run/a") != key_of(None, "/run/b")


def test_without_any_writable_place_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="tmpfs"):
        claim(Environment(()), "/here", None)

"""What the server makes of its command line and environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftbox.errors import StorageError, UnsupportedError, UsageError
from graftbox.server.environment import Environment, find_shells, make_runtime_folder
from graftbox.server.settings import Settings, read_settings


def settings(*argv: str, **variables: str) -> Settings:
    entries = tuple(f"{name}={value}".encode() for name, value in variables.items())
    return read_settings(argv, Environment(entries), "/here")


def test_the_arguments_of_existing_clients_are_understood() -> None:
    given = settings(
        *[
            "30001",
            "--working-dir",
            "/workspace",
            "--plugins",
            "agent_skills",
            "jupyter",
            "--username",
            "openhands",
        ],
        *["--user-id", "1000", "--no-enable-browser"],
    )
    assert (given.port, given.working_dir) == (30001, "/workspace")
    assert given.ignored == ("--username openhands", "--user-id 1000", "--plugins agent_skills jupyter")
    assert settings("--enable-browser").ignored == ("--enable-browser",)
    assert settings("--no-enable-browser", "--no-auth").ignored == ()


def test_what_follows_the_dashes_is_the_child_and_left_alone() -> None:
    given = settings("--no-auth", "--", "nginx", "--", "-g", "--no-auth")
    assert given.child == ("nginx", "--", "-g", "--no-auth")
    assert (given.port, given.auth, given.child_dir) == (60000, False, "/here")


def test_the_argument_wins_over_the_variable() -> None:
    assert settings("1234", GRAFTBOX_PORT="99").port == 1234
    assert settings(GRAFTBOX_PORT="99").port == 99
    assert settings("0", GRAFTBOX_SOCKET="/s").port is None
    assert settings("0").port == 0


def test_relative_working_folders_start_where_the_process_is() -> None:
    assert settings("--working-dir=sub").working_dir == "/here/sub"
    assert settings(WORKSPACE_MOUNT_PATH_IN_SANDBOX="/w").working_dir == "/w"
    assert settings().working_dir == "/here"


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "nan", "inf"])
def test_a_silence_that_is_no_time_is_the_default(text: str) -> None:
    assert settings(NO_CHANGE_TIMEOUT_SECONDS=text).silence == 10


@pytest.mark.parametrize(
    "argv", [["x"], ["70000"], ["1", "2"], ["--nope"], ["--shell"], ["--plugins", "x"], ["--user-id", "a"]]
)
def test_a_wrong_argument_is_refused_with_the_usage(argv: list[str]) -> None:
    with pytest.raises(UsageError):
        settings(*argv)


def test_our_variables_do_not_reach_the_user() -> None:
    entries = (b"A=1", b"GRAFTBOX_PORT=1", b"SESSION_API_KEY=k", b"A\xff=\xfe", b"TERM=vt100")
    environment = Environment(entries)
    assert environment.for_the_user() == (b"A=1", b"A\xff=\xfe", b"TERM=vt100")
    assert environment.for_a_terminal() == environment.for_the_user()


def test_a_shell_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnsupportedError, match="/no/shell"):
        find_shells(Environment(()), "/no/shell")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket's; pytest's own are too deep."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_the_runtime_folder_is_private_and_one_without_a_server_is_removed(short_folder: Path) -> None:
    environment = Environment((f"XDG_RUNTIME_DIR={short_folder}".encode(),))
    used, lock = make_runtime_folder(environment, "/")
    assert used.stat().st_mode & 0o777 == 0o700
    abandoned, other = short_folder / ".graftbox-1-abandoned", short_folder / "other"
    for folder in (abandoned, other):
        folder.mkdir()
        (folder / "tmux").touch()
    for folder in (used, abandoned, other):
        os.utime(folder, (0, 0))
    new, another_lock = make_runtime_folder(environment, "/")
    assert sorted(short_folder.iterdir()) == sorted((used, new, other))
    os.close(lock)
    os.close(another_lock)


def test_without_any_writable_place_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="tmpfs"):
        make_runtime_folder(Environment(()), "/here")

"""What the server makes of its command line and environment."""

from __future__ import annotations

import pytest

from graftbox.errors import UnsupportedError, UsageError
from graftbox.server.environment import Environment, find_shells
from graftbox.server.settings import Settings, read_settings


def settings(*argv: str, **variables: str) -> Settings:
    entries = tuple(f"{name}={value}".encode() for name, value in variables.items())
    return read_settings(argv, Environment(entries), "/here", "made up")


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
    assert (given.username, given.user_id) == ("openhands", 1000)
    assert given.plugins == ("agent_skills", "jupyter")
    assert given.notes == ()
    assert not given.browser


def test_what_has_no_effect_is_said_with_its_reason() -> None:
    assert settings("--enable-browser").notes == ()
    (note,) = settings(LOCAL_RUNTIME_MODE="1").notes
    assert note == "LOCAL_RUNTIME_MODE has no effect: this server is always the same."
    (note,) = settings(RUNTIME_MAX_MEMORY_GB="4").notes
    assert "container engine" in note
    with pytest.raises(UsageError, match="needs a browser"):
        settings("--no-enable-browser", "--browsergym-eval-env", "browsergym/miniwob.x")


def test_the_user_comes_from_options_or_the_clients_variables() -> None:
    given = settings("--username", "dev", RUNTIME_USERNAME="other", RUNTIME_UID="7", SANDBOX_GROUP_ID="5")
    assert (given.username, given.user_id, given.group) == ("dev", 7, "5")
    assert settings("--username", "12").user_id == 12
    none = settings("--username", "dev", "--user-id", "7", SU_TO_USER="false")
    assert (none.username, none.user_id) == (None, None)
    assert (settings().username, settings().user_id) == (None, None)


def test_a_key_is_made_up_where_none_is_given_unless_none_is_wanted() -> None:
    assert settings().key == "made up"
    assert settings(SESSION_API_KEY="k").key == "k"
    assert settings("--no-auth", SESSION_API_KEY="k").key is None
    assert settings(GRAFTBOX_NO_AUTH="1").key is None


def test_what_follows_the_dashes_is_the_child_and_left_alone() -> None:
    given = settings("--no-auth", "--", "nginx", "--", "-g", "--no-auth")
    assert given.child == ("nginx", "--", "-g", "--no-auth")
    assert (given.port, given.key, given.child_dir) == (60000, None, "/here")


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
    "argv",
    [
        ["x"],
        ["70000"],
        ["1", "2"],
        ["--nope"],
        ["--shell"],
        ["--plugins", "x"],
        ["--user-id", "a"],
        ["--username", "a:b"],
    ],
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

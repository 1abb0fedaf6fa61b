"""Whom the actions run as. Another user than the server's own needs root, and files of its own in /etc."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftbox.server import workspace
from graftbox.server.environment import Environment
from graftbox.server.identity import Identity
from graftbox.server.settings import Settings
from graftbox.server.users import choose

SOURCE = Path(__file__).parents[3] / "src"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
Chosen = Callable[..., dict[str, Any]]

# Chooses in a mount namespace whose /etc and /home are the test's own.
CHOOSE = """
import ctypes, dataclasses, json, logging, sys
libc = ctypes.CDLL(None, use_errno=True)
folder, options, argv = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
assert libc.unshare(0x20000) == 0
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
for name in ("etc", "home"):
    source, target = f"{folder}/{name}".encode(), f"/{name}".encode()
    assert libc.mount(source, target, None, 0x1000, None) == 0
    if options["read_only"]:
        assert libc.mount(None, target, None, 0x1021, None) == 0
from graftbox.server.environment import Environment
from graftbox.server.settings import read_settings
from graftbox.server.users import choose
logging.basicConfig(format="%(message)s")
settings = read_settings(argv, Environment(()), "/", "")
print(json.dumps(dataclasses.asdict(choose(settings, Environment(())))))
"""


@pytest.fixture
def chosen(tmp_path: Path) -> Chosen:
    """The user that these arguments lead to; ``log`` is what was said about it."""
    for name in ("etc", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/false")
    (tmp_path / "etc/group").write_text("root:x:0:\nnode:x:1000:\ndocker:x:70:node,ada\n")

    def choose_in_namespace(*argv: str, read_only: bool = False) -> dict[str, Any]:
        options = json.dumps({"read_only": read_only})
        done = subprocess.run(
            [sys.executable, "-c", CHOOSE, str(tmp_path), options, *argv],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(SOURCE)},
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout), "log": done.stderr}

    return choose_in_namespace


@root_only
def test_a_user_of_the_image_is_taken_as_it_is(chosen: Chosen, tmp_path: Path) -> None:
    before = (tmp_path / "etc/passwd").read_text()
    user = chosen("--username", "node", "--user-id", "1000")
    assert (user["uid"], user["gid"], user["groups"]) == (1000, 1000, [1000, 70])
    assert (user["home"], user["shell"], user["switched"]) == ("/home/node", "/bin/false", True)
    assert user["log"] == ""
    assert (tmp_path / "etc/passwd").read_text() == before


@root_only
def test_the_images_number_wins_and_the_difference_is_said(chosen: Chosen) -> None:
    user = chosen("--username", "node", "--user-id", "1234")
    assert user["uid"] == 1000
    assert "number 1000, which is used instead of 1234" in user["log"]


@root_only
def test_a_missing_user_asked_for_by_name_is_made_with_a_home(chosen: Chosen, tmp_path: Path) -> None:
    (tmp_path / "etc/skel").mkdir()
    (tmp_path / "etc/skel/.bashrc").write_text("# skeleton")
    (tmp_path / "etc/passwd").chmod(0o640)
    user = chosen("--username", "ada", "--user-id", "1234")
    assert (user["name"], user["uid"], user["gid"], user["groups"]) == ("ada", 1234, 0, [0, 70])
    assert user["home"] == "/home/ada"
    passwd = tmp_path / "etc/passwd"
    assert passwd.read_text().splitlines()[-1].startswith("ada:*:1234:0::/home/ada:/")
    assert passwd.stat().st_mode & 0o777 == 0o640
    home = tmp_path / "home/ada"
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (home, home / ".bashrc")] == [(1234, 0)] * 2
    again = chosen("--username", "ada", "--user-id", "1234")
    assert {**again, "log": ""} == {**user, "log": ""}
    assert passwd.read_text().count("\nada:") == 1


@root_only
def test_a_number_that_is_taken_is_shown_by_the_new_name(chosen: Chosen, tmp_path: Path) -> None:
    user = chosen("--username", "openhands")
    assert (user["uid"], user["name"]) == (1000, "openhands")
    assert "belongs to node too" in user["log"]
    names = [line.partition(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    assert names == ["root", "openhands", "node"]


@root_only
@pytest.mark.skipif(not shutil.which("sudo"), reason="needs the program sudo")
def test_a_new_user_may_use_sudo_where_the_image_has_it(chosen: Chosen, tmp_path: Path) -> None:
    (tmp_path / "etc/sudoers").write_text("root ALL=(ALL) ALL")
    for _ in range(2):
        chosen("--username", "ada")
    assert (tmp_path / "etc/sudoers").read_text() == "root ALL=(ALL) ALL\nada ALL=(ALL) NOPASSWD:ALL\n"


@root_only
def test_where_nothing_can_be_written_the_number_is_enough(chosen: Chosen, tmp_path: Path) -> None:
    user = chosen("--username", "ada", "--user-id", "4321", read_only=True)
    assert (user["uid"], user["name"]) == (4321, "ada")
    assert "no entry in /etc/passwd" in user["log"]
    home = Path(user["home"])
    assert home.stat().st_uid == 4321, "a home of the user's own, in a folder that can be written"
    home.rmdir()


@root_only
def test_a_number_alone_makes_no_account(chosen: Chosen, tmp_path: Path) -> None:
    user = chosen("--user-id", "4322")
    assert (user["uid"], user["gid"], user["name"]) == (4322, 0, None)
    assert "4322" not in (tmp_path / "etc/passwd").read_text()
    Path(user["home"]).rmdir()


@root_only
@pytest.mark.parametrize("argv", [["--username", "root"], ["--user-id", "0"], []])
def test_root_by_any_name_changes_nothing(chosen: Chosen, argv: list[str]) -> None:
    user = chosen(*argv)
    assert (user["uid"], user["switched"], user["log"]) == (0, False, "")


@root_only
def test_the_servers_own_user_by_name_is_told_who_it_is(chosen: Chosen) -> None:
    user = chosen("--username", "root")
    assert (user["name"], user["home"], user["shell"]) == ("root", "/root", "/bin/sh")


def test_what_the_container_says_of_the_own_user_stays() -> None:
    mine = pwd.getpwuid(os.geteuid()).pw_name
    given = Environment((b"USER=else", b"HOME=/elsewhere", b"SHELL=/bin/else"))
    assert choose(Settings(username=mine), given) == Identity.own()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may become another user")
def test_a_server_that_is_not_root_says_whom_it_runs_actions_as(caplog: pytest.LogCaptureFixture) -> None:
    identity = choose(Settings(username="somebody-else", user_id=4321), Environment(()))
    assert identity == Identity.own()
    assert f"Actions run as user {os.geteuid()}" in caplog.text


def test_a_missing_working_folder_is_made(tmp_path: Path) -> None:
    workspace.prepare(str(tmp_path / "a/b"), Identity.own(), "0")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o775


def test_a_working_folder_that_can_not_be_made_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    workspace.prepare(str(tmp_path / "file/sub"), Identity.own(), "0")
    assert "could not be prepared: Not a directory" in caplog.text


@root_only
def test_a_working_folder_of_another_owner_is_handed_over_once(tmp_path: Path) -> None:
    folder, user = tmp_path / "w", Identity(4321, 0, (0,), "ada", "/", "/bin/sh", switched=True)
    (folder / "d").mkdir(parents=True)
    (folder / "d/file").touch()
    (folder / "others").touch()
    (folder / "link").symlink_to(tmp_path)
    os.chown(folder / "others", 77, 77)
    workspace.prepare(str(folder), user, "5")
    for path in (folder, folder / "d", folder / "d/file", folder / "link"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (4321, 5), path
    assert (folder / "others").stat().st_uid == 77
    assert tmp_path.stat().st_uid == 0
    assert folder.stat().st_mode & 0o060 == 0o060
    (folder / "new").touch()
    workspace.prepare(str(folder), user, "5")
    assert (folder / "new").stat().st_uid == 0, "once: what root makes later stays root's"


@root_only
def test_file_work_is_done_with_the_users_rights_and_no_others(tmp_path: Path) -> None:
    user = Identity(4321, 0, (0, 70), "ada", "/", "/bin/sh", switched=True)
    shared, secret = tmp_path / "shared", tmp_path / "secret"
    for above in (tmp_path, *tmp_path.parents[:-2]):
        above.chmod(0o755)
    shared.mkdir()
    shared.chmod(0o770)
    os.chown(shared, 0, 70)
    secret.touch(0o600)

    async def work() -> None:
        await user.call((shared / "new").touch)
        with pytest.raises(PermissionError):
            await user.call(secret.read_bytes)

    asyncio.run(work())
    assert (shared / "new").stat().st_uid == 4321
    assert secret.read_bytes() == b"", "the server's own threads stay its own"


@root_only
def test_root_without_its_capabilities_stays_itself() -> None:
    code = (
        "from graftbox.server.environment import Environment\n"
        "from graftbox.server.settings import Settings\n"
        "from graftbox.server.users import choose\n"
        "print(choose(Settings(username='graftbox-nobody'), Environment(())).switched)"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE)},
    )
    assert done.stdout == "False\n"
    assert "capabilities SETUID and SETGID" in done.stderr
    assert "graftbox-nobody" not in Path("/etc/passwd").read_text()

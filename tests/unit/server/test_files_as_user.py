"""A server started as root touches files only as the sandbox's user may."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import stat
import subprocess
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graftbox.server import search
from graftbox.server.editor import Editor
from graftbox.server.entries import listing, told
from graftbox.server.files import read, write
from graftbox.server.identity import Identity
from graftbox.server.packing import check_readable
from graftbox.server.request import HTTPError
from graftbox.server.transfer import Terms, received
from graftbox.server.tree import move_entry, remove
from graftbox.server.unpacking import members, unpack_tar, unpack_zip
from graftbox.server.watch import Watch
from graftbox.server.workspace import claim
from graftbox.wire.actions import Edit, Read, Write
from graftbox.wire.observations import Failure, WriteResult

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
UID = 12345
USER = Identity(UID, UID, (UID,), switched=True)


def as_user(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What ``function`` returns on a thread of the user; `HTTPError` where the system refuses."""

    async def call() -> Any:
        with told(Path(str(arguments[0]))):
            return await USER.call(function, *arguments, **named)

    return asyncio.run(call())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of the user's, with one of root's beside it."""
    # Down from /tmp; there is one more folder where tests run in parallel.
    for above in (tmp_path, *tmp_path.parents[:-2]):
        above.chmod(0o755)
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", UID, UID)
    (tmp_path / "root").mkdir(mode=0o700)
    (tmp_path / "root/secret").write_text("secret")
    (tmp_path / "shadow").write_text("secret")
    (tmp_path / "shadow").chmod(0o600)
    return tmp_path / "home"


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def test_what_is_written_belongs_to_the_user(home: Path) -> None:
    assert as_user(write, Write("d/f", "x"), str(home)) == WriteResult(str(home / "d/f"))
    asyncio.run(received(stream(b"up", b"load"), home / "u", Terms(), USER))
    edit = Edit(str(home / "e"), "create", file_text="x\n")
    asyncio.run(Editor().run(edit, str(home), USER))
    for path in home.rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (UID, UID)
    assert (home / "u").read_bytes() == b"upload"


def test_the_user_can_not_read_what_only_root_may(home: Path) -> None:
    for path in ("../shadow", "../root/secret"):
        answer = as_user(read, Read(path), str(home))
        assert isinstance(answer, Failure)
        assert "Permission denied" in answer.content
    view = asyncio.run(Editor().run(Edit(str(home.parent / "shadow"), "view"), str(home), USER))
    assert view.content.startswith("ERROR:\nRan into [Errno 13] Permission denied")
    for function in (check_readable, lambda path: listing(path / "root", False, True, 10, "")):
        with pytest.raises(HTTPError) as refusal:
            as_user(function, home.parent)
        assert refusal.value.status == 403
    with contextlib.suppress(HTTPError):  # 501 where this Python belongs to root alone
        assert asyncio.run(search.grep(search.Query("secret"), home.parent, USER)).found == []


def test_links_lead_the_user_nowhere_else(home: Path) -> None:
    (home / "link").symlink_to(home.parent / "shadow")
    (home / "folder").symlink_to(home.parent / "root")
    for path in ("link", "folder/new"):
        assert isinstance(as_user(write, Write(path, "evil"), str(home)), Failure)
        with pytest.raises(HTTPError) as refusal:
            as_user(lambda path: asyncio.run(received(stream(b"x"), path, Terms(), USER)), home / path)
        assert refusal.value.status == 403
    assert (home.parent / "shadow").read_text() == "secret"
    assert [path.name for path in (home.parent / "root").iterdir()] == ["secret"]


def test_the_user_can_not_change_what_is_not_its_own(home: Path) -> None:
    (home.parent / "public").write_text("old")
    os.chown(home, 0, 0)
    (home / "theirs").write_text("x")
    for function, arguments in (
        (remove, (home / "theirs", False)),
        (move_entry, (home / "theirs", home / "mine", False, False)),
        (lambda path: unpack_tar(io.BytesIO(), path, lambda: 0, compressed=False), (home / "new",)),
    ):
        with pytest.raises(HTTPError) as refusal:
            as_user(function, *arguments)
        assert refusal.value.status == 403
    assert isinstance(as_user(write, Write("../public", "new"), str(home)), Failure)
    assert (home.parent / "public").read_text() == "old"


def test_a_file_of_others_that_may_be_written_keeps_its_owner(home: Path) -> None:
    path = home / "shared"
    path.write_text("old content")
    path.chmod(0o666)
    assert as_user(write, Write("shared", "new"), str(home)) == WriteResult(str(path))
    assert path.read_text() == "new\n"
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o666)
    assert [each.name for each in home.iterdir()] == ["shared"]


def test_a_file_that_may_be_written_in_a_folder_that_may_not_is_written(home: Path) -> None:
    path = home.parent / "shared"
    for old, new in (("short", "much longer than before\n"), ("much longer than before", "short\n")):
        path.write_text(old)
        path.chmod(0o666)
        number = path.stat().st_ino
        assert as_user(write, Write("../shared", new), str(home)) == WriteResult(str(home / "../shared"))
        assert path.read_text() == new
        assert path.stat().st_ino == number


def test_a_folder_that_the_user_may_not_read_is_not_watched(home: Path) -> None:
    async def main() -> None:
        with told(home):
            await Watch(home.parent / "root", False, USER).open()

    with pytest.raises(HTTPError) as refusal:
        asyncio.run(main())
    assert refusal.value.status == 403


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_leaves_every_file_as_it_was(small: Path) -> None:
    own = Identity.own()
    (small / "f").write_bytes(b"old")
    (small / "twin").hardlink_to(small / "f")
    (small / "g").write_bytes(b"old")
    big = b"x" * 300_000
    for name in ("f", "g", "new"):
        answer = write(Write(name, "y" * 300_000), str(small))
        assert isinstance(answer, Failure)
        assert "No space left" in answer.content
        with pytest.raises(OSError, match="No space left") as full:
            asyncio.run(received(stream(big), small / name, Terms(), own))
        assert full.value.errno == errno.ENOSPC
    edit = asyncio.run(
        Editor().run(Edit(str(small / "f"), "str_replace", old_str="old", new_str="y" * 300_000), "/", own)
    )
    assert "No space left" in edit.content
    assert sorted(path.name for path in small.iterdir()) == ["f", "g", "twin"]
    assert (small / "f").read_bytes() == (small / "g").read_bytes() == b"old"


def test_a_read_only_file_system_is_a_403(small: Path) -> None:
    (small / "f").write_bytes(b"old")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    for name in ("f", "new"):
        with pytest.raises(HTTPError, match="read-only") as refusal, told(small / name):
            asyncio.run(received(stream(b"x"), small / name, Terms(), Identity.own()))
        assert refusal.value.status == 403


def zipped(**files: str) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return file


def test_what_root_has_made_in_the_workspace_is_no_obstacle_to_uploads(home: Path) -> None:
    for folder in ("made", "kept"):
        (home / folder).mkdir(mode=0o755)
    for name in ("made/a", "made/old", "b"):
        (home / name).write_text("of root")
        (home / name).chmod(0o600)
    places = members(zipped(made__a="new"), home)
    assert places == [home / "made/a"]
    claim(str(home), [*places, home / "b", home / "not/there", home / "../root/x"], USER)
    as_user(unpack_zip, zipped(made__a="new"), home)
    with pytest.raises(HTTPError, match="no permission"), told(home / "b"):
        asyncio.run(received(stream(b"new"), home / "b", Terms(), USER))
    asyncio.run(received(stream(b"new"), home / "b", Terms(replacing=True), USER))
    assert (home / "made/a").read_text() == (home / "b").read_text() == "new"
    owners = {name: (home / name).stat().st_uid for name in ("made", "made/a", "made/old", "b", "kept")}
    assert owners == {"made": UID, "made/a": UID, "made/old": 0, "b": UID, "kept": 0}
    assert (home.parent / "root").stat().st_uid == 0


def test_a_file_of_root_in_a_folder_of_root_is_not_replaced(home: Path) -> None:
    with pytest.raises(HTTPError) as refusal, told(home):
        asyncio.run(received(stream(b"new"), home.parent / "shadow", Terms(replacing=True), USER))
    assert refusal.value.status == 403
    assert (home.parent / "shadow").read_text() == "secret"


def test_links_and_folders_the_user_may_write_change_no_owner(home: Path) -> None:
    (home / "link").symlink_to("../root")
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    claim(str(home), [home / name for name in ("link/secret", "open/x", "../root/secret", "link/x/y")], USER)
    assert {path.stat().st_uid for path in (home.parent / "root", home / "open")} == {0}
    assert (home / "link").lstat().st_uid == 0


def test_a_file_that_is_no_archive_has_no_members(home: Path) -> None:
    assert members(io.BytesIO(b"none"), home) == []

"""USER in an image configuration, as Docker reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.errors import NotFoundError, UsageError
from graftbox.sandbox.users import User, resolve


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\nodd line\nbad:x:one:two:::\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\napp:x:1001:\ndisk:x:6:app,other\nvideo:x:44:app\nshort\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("root", User(0, 0, (), "/root")),
        ("app", User(1000, 1001, (6, 44), "/home/app")),
        ("1000", User(1000, 1001, (6, 44), "/home/app")),
        ("app:disk", User(1000, 6, (), "/home/app")),
        ("app:5", User(1000, 5, (), "/home/app")),
        ("12345", User(12345, 0, (), "/")),
        ("12345:54321", User(12345, 54321, (), "/")),
    ],
)
def test_names_and_numbers_are_looked_up_in_the_image(rootfs: Path, text: str, user: User) -> None:
    assert resolve(text, rootfs) == user


def test_an_image_without_passwd_has_numbers_only(tmp_path: Path) -> None:
    assert resolve("", tmp_path) == User(0, 0, (), "/")
    assert resolve("77", tmp_path) == User(77, 0, (), "/")
    with pytest.raises(NotFoundError, match="no user 'app'"):
        resolve("app", tmp_path)
    with pytest.raises(NotFoundError, match="no group 'staff'"):
        resolve("0:staff", tmp_path)


def test_a_passwd_that_links_out_of_the_image_is_not_the_machines(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("../../../../../../../../etc/passwd")
    with pytest.raises(NotFoundError):
        resolve("daemon", tmp_path)


@pytest.mark.parametrize("text", ["4294967295", "99999999999", "0:4294967295"])
def test_a_number_that_no_user_can_have_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="their numbers end at 4294967294"):
        resolve(text, tmp_path)
    assert resolve("4294967294:4294967294", tmp_path).uid == 4294967294

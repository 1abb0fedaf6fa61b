"""Links inside an unpacked image."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftbox.errors import FormatError
from graftbox.sandbox.rootfs import guest_path, inside


@pytest.mark.parametrize(
    ("path", "followed"),
    [
        ("/etc/resolv.conf", "/run/resolve/stub.conf"),
        ("etc/hosts", "/etc/hosts"),
        ("/bin/sh", "/usr/bin/dash"),
        ("/up/../../x", "/x"),
        ("/escape/passwd", "/etc/passwd"),
        ("/./etc/./hosts", "/etc/hosts"),
        ("/", "/"),
    ],
)
def test_links_are_followed_inside_the_image(tmp_path: Path, path: str, followed: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "etc/resolv.conf").symlink_to("../run/resolve/stub.conf")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/sh").symlink_to("dash")
    (tmp_path / "escape").symlink_to("/../../etc")
    assert guest_path(tmp_path, path) == followed
    assert inside(tmp_path, path) == tmp_path / followed.lstrip("/")


def test_a_circle_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FormatError, match="circles"):
        guest_path(tmp_path, "/a/x")

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graftbox.bundle import deb
from graftbox.bundle.content import File, Link, Node
from graftbox.errors import FormatError, UnsupportedError

MakeDeb = Callable[..., bytes]


def unpacked(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Node]:
    return dict(deb.nodes(path, "foo 1.0", wanted))


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_files_and_links_come_out(tmp_path: Path, make_deb: MakeDeb, compression: str) -> None:
    path = tmp_path / "foo.deb"
    path.write_bytes(make_deb({"usr/bin/foo": b"program", "usr/share/x": "-> y", "etc/c": b"1"}, compression))
    assert unpacked(path) == {
        "usr/bin/foo": File(b"program", executable=True, origin="foo 1.0"),
        "usr/share/x": Link("y"),
        "etc/c": File(b"1", origin="foo 1.0"),
    }
    assert list(unpacked(path, lambda name: name == "etc/c")) == ["etc/c"]


def test_an_unknown_compression_is_named(tmp_path: Path, make_deb: MakeDeb) -> None:
    path = tmp_path / "foo.deb"
    path.write_bytes(make_deb({"a": b""}, "zst"))
    with pytest.raises(UnsupportedError, match=r"foo 1\.0 is compressed as \.zst"):
        unpacked(path)


@pytest.mark.parametrize("end", [0, 8, 30, 200, -40])
def test_a_cut_off_package_is_a_format_error(tmp_path: Path, make_deb: MakeDeb, end: int) -> None:
    path = tmp_path / "foo.deb"
    path.write_bytes(make_deb({"usr/bin/foo": bytes(5000)})[:end])
    with pytest.raises(FormatError, match=r"The package foo 1\.0 .* is damaged"):
        unpacked(path)


def test_a_member_outside_is_refused(tmp_path: Path, make_deb: MakeDeb) -> None:
    path = tmp_path / "foo.deb"
    path.write_bytes(make_deb({"usr/../../etc/passwd": b""}))
    with pytest.raises(FormatError, match="a member called"):
        unpacked(path)

"""Layers become files: whiteouts, links, and paths that try to leave the folder."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from graftbox.errors import FormatError, VerificationError
from graftbox.image.blob import Blob
from graftbox.image.tree import Tree
from graftbox.store import digest_of

Files = Mapping[str, bytes | str | tarfile.TarInfo]
Apply = Callable[..., list[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def apply(root: Path, layer_of: Callable[[Files], Blob]) -> Apply:
    """Applies layers and returns what is there then, folders with a slash."""

    def run(*layers: Files) -> list[str]:
        tree = Tree(root)
        for files in layers:
            tree.apply(layer_of(files))
        tree.seal()
        found = sorted(root.rglob("*"))
        return [f"{p.relative_to(root)}{'/' if p.is_dir() and not p.is_symlink() else ''}" for p in found]

    return run


def test_later_layers_win(root: Path, apply: Apply) -> None:
    apply({"a": b"1", "d/b": b"1"}, {"a": b"2", "./d/c": b"2"})
    assert (root / "a").read_bytes() == b"2"
    assert apply() == ["a", "d/", "d/b", "d/c"]


def test_a_whiteout_removes_a_file_or_a_whole_folder(apply: Apply) -> None:
    assert apply({"d/a": b"", "e/f/g": b"", "k": b""}, {"d/.wh.a": b"", ".wh.e": b""}) == ["d/", "k"]


def test_an_opaque_folder_hides_what_was_below_and_keeps_what_comes_with_it(apply: Apply) -> None:
    below = {"d/old": b"", "d/sub/old": b"", "e": b""}
    before = {"d": "/", "d/.wh..wh..opq": b"", "d/sub/new": b"", "d/new": b""}
    assert apply(below, before) == ["d/", "d/new", "d/sub/", "d/sub/new", "e"]


def test_an_opaque_mark_may_come_last(apply: Apply) -> None:
    above = {"d/new": b"", "d/sub/new": b"", "d/.wh..wh..opq": b""}
    assert apply({"d/old": b"", "d/sub/old": b""}, above) == ["d/", "d/new", "d/sub/", "d/sub/new"]


def test_a_file_replaces_a_folder_and_a_folder_a_file(apply: Apply) -> None:
    assert apply({"a/b": b"", "c": b""}, {"a": b"file", "c": "/", "c/d": b""}) == ["a", "c/", "c/d"]


def test_paths_through_links_stay_inside_as_for_a_process_in_the_image(root: Path, apply: Apply) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    links = {"bin": "-> usr/bin", "abs": "-> /usr", "out": f"-> {outside}", "up": "-> ../../.."}
    apply({"usr/bin": "/", **links}, {"bin/x": b"", "abs/y": b"", "out/z": b"", "up/w": b""})
    assert (root / "usr/bin/x").is_file()
    assert (root / "usr/y").is_file()
    assert (root / str(outside).lstrip("/") / "z").is_file()
    assert (root / "w").is_file()
    assert list(outside.iterdir()) == []


def test_a_file_never_goes_through_a_link_of_its_own_name(root: Path, apply: Apply) -> None:
    victim = root.parent / "victim"
    victim.write_text("mine")
    apply({"f": f"-> {victim}"}, {"f": b"theirs"})
    assert victim.read_text() == "mine"
    assert (root / "f").read_bytes() == b"theirs"


def test_a_folder_that_became_a_link_is_not_entered_by_its_old_name(root: Path, apply: Apply) -> None:
    outside = root.parent / "outside"
    outside.mkdir(mode=0o700)
    apply({"d": "/", "d/a": b""}, {".wh.d": b""}, {"d": f"-> {outside}", "d/b": b""})
    assert list(outside.iterdir()) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700


def test_hard_links_share_their_file(root: Path, apply: Apply) -> None:
    apply({"d/a": b"x", "b": "=> d/a"}, {"c": "=> d/a"})
    assert (root / "d/a").stat().st_nlink == 3


@pytest.mark.parametrize(
    "files",
    [
        {"../evil": b""},
        {"a/../../evil": b""},
        {".wh...": b""},
        {".wh..": b""},
        {"d/.wh.": b""},
        {"l": "=> nowhere"},
        {"l": "=> ../../../etc/passwd"},
        {"d": "/", "l": "=> d"},
        {"a": "-> b", "b": "-> a", "a/c": b""},
    ],
)
def test_a_layer_that_lies_is_refused(root: Path, apply: Apply, files: dict[str, bytes | str]) -> None:
    (root.parent / "evil").write_text("still here")
    with pytest.raises(FormatError):
        apply(files)
    assert (root.parent / "evil").read_text() == "still here"
    assert root.is_dir()


def test_modes_and_times_are_the_layers_own_even_of_folders(root: Path, apply: Apply) -> None:
    folder, file = tarfile.TarInfo(), tarfile.TarInfo()
    folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o555, 1_000_000_000
    file.mode, file.mtime = 0o4711, 1_100_000_000
    folder.uid = file.uid = 12345
    umask = os.umask(0o077)
    try:
        apply({"d": folder, "d/f": file, "made/g": b""})
    finally:
        os.umask(umask)
    assert int((root / "d").stat().st_mtime) == 1_000_000_000
    assert int((root / "d/f").stat().st_mtime) == 1_100_000_000
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o4711
    assert stat.S_IMODE((root / "made").stat().st_mode) == 0o755
    if os.geteuid() == 0:
        assert stat.S_IMODE((root / "d").stat().st_mode) == 0o555
        assert (root / "d/f").stat().st_uid == 12345


def test_pipes_are_made_and_extended_attributes_kept(root: Path, apply: Apply) -> None:
    pipe = tarfile.TarInfo()
    pipe.type = tarfile.FIFOTYPE
    noted = tarfile.TarInfo()
    noted.pax_headers = {"SCHILY.xattr.user.note": "hello"}
    apply({"p": pipe, "n": noted})
    assert stat.S_ISFIFO((root / "p").stat().st_mode)
    try:
        assert os.getxattr(root / "n", "user.note") == b"hello"
    except OSError as error:
        pytest.skip(f"missing on this machine: extended attributes on {root} ({error.strerror})")


def test_a_truncated_or_garbled_layer_is_an_error(
    root: Path, tar_of: Callable[[Files], bytes], apply: Apply
) -> None:
    data = gzip.compress(tar_of({"a": os.urandom(100_000)}))
    for damaged in (data[:-50_000], data[:5000] + b"garbage" + data[5007:], b"", b"no tar at all" * 100):
        with pytest.raises((FormatError, VerificationError)):
            Tree(root).apply(Blob.of(damaged, "layer"))


def test_a_layer_with_another_diff_id_is_an_error(
    root: Path, layer_of: Callable[[Files], Blob], apply: Apply
) -> None:
    blob = layer_of({"a": b"x"})
    with pytest.raises(VerificationError, match="unpacks to"):
        Tree(root).apply(Blob(blob.descriptor, blob.open, "sha256:" + "0" * 64))


def test_gzip_in_several_pieces_and_plain_tars(
    root: Path, tar_of: Callable[[Files], bytes], apply: Apply
) -> None:
    tar = tar_of({"a": b"x" * 100_000})
    pieces = gzip.compress(tar[:1000]) + gzip.compress(tar[1000:])
    for name, data in (("pieces", pieces), ("plain", tar)):
        (root / name).mkdir()
        blob = Blob.of(data, "layer")
        Tree(root / name).apply(Blob(blob.descriptor, blob.open, digest_of(tar)))
        assert (root / name / "a").stat().st_size == 100_000

"""Folders in and out of the sandbox."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import socket
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.conftest import until

from graftbox.server import unpacking
from graftbox.server.packing import FORMATS, packed
from graftbox.server.request import HTTPError
from graftbox.server.unpacking import unpack_tar, unpack_zip

ARCHIVE = "/v1/files/archive"
OUTSIDE = [
    ("../x", None),
    ("a/../../x", None),
    ("/etc/x", None),
    ("l", "/etc"),
    ("l", "../.."),
    ("a/l", "../.."),
]


def unpack(data: bytes, form: str, target: Path) -> int:
    stream = io.BytesIO(data)
    if form == "zip":
        return unpack_zip(stream, target)
    return unpack_tar(stream, target, stream.tell, compressed=form == "tar.gz")


def tarred(*members: tuple[str, bytes | str | None], kind: bytes | None = None) -> bytes:
    """Bytes are a file's content, text a link's target, None is a folder."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind or tarfile.SYMTYPE, content
            elif content is None:
                info.type = kind or tarfile.DIRTYPE
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return data.getvalue()


def zipped(*members: tuple[str, bytes | str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            if isinstance(content, str):
                info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content)
    return data.getvalue()


def state(folder: Path) -> dict[str, Any]:
    """Everything in it by relative path: kind, mode, whole seconds of the time, content."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        if path.is_symlink():
            value: Any = os.fspath(path.readlink())
        else:
            value = (
                stat.S_IMODE(info.st_mode),
                int(info.st_mtime) // 2,
                path.read_bytes() if path.is_file() else None,
            )
        found[str(path.relative_to(folder))] = value
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_comes_back_as_it_was(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "sub").mkdir()
    (source / "sub/run").write_text("#!/bin/sh\n")
    (source / "sub/run").chmod(0o755)
    (source / "secret").write_bytes(os.urandom(700_000))
    (source / "secret").chmod(0o600)
    (source / "ü☃ name").touch()
    (source / "link").symlink_to("sub/run")
    os.link(source / "secret", source / "twin")
    os.mkfifo(source / "pipe")
    for path in (source / "sub/run", source / "empty"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    unpack(b"".join(packed(source, form)), form, tmp_path / "target")
    (source / "pipe").unlink()
    assert state(tmp_path / "target") == state(source)
    if form != "zip":
        assert (tmp_path / "target/twin").stat().st_nlink == 2


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
TREES = st.recursive(
    st.binary(max_size=40), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
).filter(lambda tree: isinstance(tree, dict))


def plant(tree: Any, folder: Path) -> None:
    folder.mkdir()
    for name, value in tree.items():
        if isinstance(value, dict):
            plant(value, folder / name)
        else:
            (folder / name).write_bytes(value)


@settings(max_examples=25, deadline=None)
@given(TREES, st.sampled_from(FORMATS))
def test_any_tree_survives_the_round_trip(tree: Any, form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        plant(tree, Path(name, "source"))
        unpack(b"".join(packed(Path(name, "source"), form)), form, Path(name, "target"))
        assert state(Path(name, "target")) == state(Path(name, "source"))


@pytest.mark.parametrize(("name", "link"), OUTSIDE)
@pytest.mark.parametrize("form", ["tar", "zip"])
def test_what_leads_out_of_the_folder_is_refused_by_name(
    tmp_path: Path, name: str, link: str | None, form: str
) -> None:
    members = [("good", b"x"), (name, b"evil" if link is None else link)]
    with pytest.raises(HTTPError, match=name) as refusal:
        unpack((tarred if form == "tar" else zipped)(*members), form, tmp_path / "deep/target")
    assert refusal.value.status == 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        tarred(("l", "sub"), ("l/x", b"evil")),
        tarred(("sub", None), ("l", "sub"), ("l", b"evil")),
        tarred(("h", "/etc/passwd"), kind=tarfile.LNKTYPE),
        tarred(("h", "missing"), kind=tarfile.LNKTYPE),
        tarred(("d", None), kind=tarfile.CHRTYPE),
        tarred(("d", None), kind=tarfile.FIFOTYPE),
        tarred(("f", b""), ("f/x", b"")),
        tarred(("/".join("d" * 300), b"")),
        tarred(("f" * 256, b"")),
        tarred(("f/" + "ü" * 128, b"")),
        tarred(("", b"")),
        tarred((".", b"")),
        tarred(("./", "d")),
        tarred(("f", b"whole"))[:700],
        b"no archive at all" * 100,
    ],
)
def test_a_bad_member_or_a_broken_archive_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "old").write_text("old")
    with pytest.raises(HTTPError) as refusal:
        unpack(data, "tar", tmp_path)
    assert refusal.value.status == 400
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["", ".", "./."])
def test_a_zipped_file_without_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HTTPError, match="has no name"):
        unpack(zipped((name, b"evil")), "zip", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


WHOLE = {
    "tar": tarred(("d", None), ("d/f", b"x" * 600), ("l", "d/f"), ("h", b"y")),
    "zip": zipped(("d/f", b"x" * 600), ("l", "d/f"), ("h", b"y")),
}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["tar", "zip"]),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
)
def test_a_damaged_archive_is_unpacked_or_refused(form: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE[form])
    for at, value in changes:
        data[at % len(data)] = value
    with tempfile.TemporaryDirectory() as name:
        target = Path(name, "target")
        try:
            unpack(bytes(data), form, target)
        except HTTPError:
            assert not target.exists()


def test_an_archive_cut_anywhere_is_refused(tmp_path: Path) -> None:
    for form, data in (
        (form, gzip.compress(WHOLE["tar"]) if form == "tar.gz" else WHOLE[form]) for form in FORMATS
    ):
        for size in range(0, len(data) - 1, 1 + len(data) // 50):
            with contextlib.suppress(HTTPError):
                unpack(data[:size], form, tmp_path / "target")
                # Whoever made it may leave out the two blocks of zeros at the end of a tar archive.
                assert form == "tar"


def test_files_are_replaced_and_folders_are_merged(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/old").write_text("old")
    (tmp_path / "d/f").write_text("old")
    unpack(tarred(("./d", None), ("./d/f", b"new"), ("./g", b"new")), "tar", tmp_path)
    assert {name: value[2] for name, value in state(tmp_path).items() if value[2]} == {
        "d/old": b"old",
        "d/f": b"new",
        "g": b"new",
    }
    (tmp_path / "link").symlink_to("d")
    for member in (("d", b"a file"), ("g", None), ("link", None)):
        with pytest.raises(HTTPError) as refusal:
            unpack(tarred(("first", b"x"), member), "tar", tmp_path)
        assert refusal.value.status == 409
        assert not (tmp_path / "first").exists()


def test_a_bomb_is_refused_long_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "FREE", 1024 * 1024)
    source = tmp_path / "source"
    source.mkdir()
    with (source / "zeros").open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    for form in ("tar.gz", "zip"):
        data = b"".join(packed(source, form))
        if form == "zip":
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(source / "zeros", "zeros")
            data = stream.getvalue()
        with pytest.raises(HTTPError) as refusal:
            unpack(data, form, tmp_path / "target")
        assert refusal.value.status == 413
    assert not (tmp_path / "target").exists()


def test_set_user_id_bits_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/f").touch()
    (tmp_path / "s/f").chmod(0o6755)
    unpack(b"".join(packed(tmp_path / "s", "tar")), "tar", tmp_path / "t")
    assert stat.S_IMODE((tmp_path / "t/f").stat().st_mode) == 0o755


def fetch(client: Any, method: str, path: str, body: Any = None, **headers: str) -> tuple[Any, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.connection.request(method, path, body, named)
    response = client.connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_travels_over_http(client: Any, tmp_path: Path, form: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "f").write_bytes(os.urandom(3_000_000))
    (source / "d").mkdir()
    response, data = fetch(client, "GET", f"{ARCHIVE}?path={source}&format={form}")
    assert response.status == 200
    assert response.getheader("content-disposition") == f'attachment; filename="source.{form}"'
    pieces = (data[at : at + 100_000] for at in range(0, len(data), 100_000))
    response, answer = fetch(client, "PUT", f"{ARCHIVE}?path={target}&format={form}", pieces)
    assert (response.status, json.loads(answer)["members"]) == (200, 2)
    assert state(target) == state(source)


def test_an_unpacking_client_that_goes_away_leaves_nothing(client: Any, tmp_path: Path) -> None:
    data = tarred(("f", bytes(3_000_000)))
    target = tmp_path / "target"
    with socket.create_connection(("127.0.0.1", client.port)) as sender:
        head = f"PUT {ARCHIVE}?path={target}&format=tar HTTP/1.1\r\nHost: x\r\n"
        head += f"Content-Length: {len(data)}\r\n\r\n"
        sender.sendall(head.encode() + data[:2_000_000])
        until(target.exists)
    until(lambda: not list(tmp_path.iterdir()))


def form(filename: str, content: bytes) -> tuple[bytes, str]:
    head = f'--xx\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    other = '--xx\r\nContent-Disposition: form-data; name="other"\r\n\r\nnothing\r\n'
    return other.encode() + head.encode() + content + b"\r\n--xx--\r\n", "multipart/form-data; boundary=xx"


def upload(client: Any, filename: str, content: bytes, query: str) -> tuple[int, Any]:
    body, kind = form(filename, content)
    response, data = fetch(client, "POST", f"/upload_file?{query}", body, Content_Type=kind)
    return response.status, json.loads(data)


def test_an_uploaded_file_arrives_whole_and_alone(client: Any, tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    answer = upload(client, "f.bin", content, f"destination={tmp_path}/new")
    assert answer == (200, {"filename": "f.bin", "destination": f"{tmp_path}/new", "recursive": False})
    assert (tmp_path / "new/f.bin").read_bytes() == content
    assert upload(client, "../../evil", b"x", f"destination={tmp_path}/new")[1]["filename"] == "evil"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["evil", "f.bin"]


def test_what_can_not_be_written_is_named(client: Any, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    status, answer = upload(client, "f", b"x", f"destination={tmp_path}")
    assert (status, answer["detail"]) == (409, f"{tmp_path}/f: It is a folder.")


def test_an_uploaded_zip_is_unpacked_or_refused(client: Any, tmp_path: Path) -> None:
    query = f"destination={tmp_path}/t&recursive=true"
    assert upload(client, "x.zip", zipped(("d/f", b"x")), query)[0] == 200
    assert [path.name for path in tmp_path.rglob("*")] == ["t", "d", "f"]
    status, answer = upload(client, "x.zip", zipped(("g", b"x"), ("../evil", b"x")), query)
    assert (status, "'../evil' leads out of the folder" in answer["detail"]) == (400, True)
    assert upload(client, "x.zip", b"PK no zip", query)[0] == 400
    assert upload(client, "x.txt", b"x", query) == (400, {"detail": "Recursive uploads must be zip files"})
    assert upload(client, "..", b"x", f"destination={tmp_path}")[0] == 400
    assert [path.name for path in tmp_path.rglob("*")] == ["t", "d", "f"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (form("f", b"x")[0][:-9], "multipart/form-data; boundary=xx", 400),
        (b"--xx--\r\n", "multipart/form-data; boundary=xx", 422),
        (b"garbage", "multipart/form-data; boundary=xx", 400),
        (b"x", "text/plain", 422),
        (b"x", "", 422),
        (b"--xx\r\n" + b"h" * 20_000, "multipart/form-data; boundary=xx", 400),
    ],
)
def test_a_broken_form_leaves_nothing(
    client: Any, tmp_path: Path, body: bytes, kind: str, status: int
) -> None:
    response, data = fetch(client, "POST", f"/upload_file?destination={tmp_path}", body, Content_Type=kind)
    assert response.status == status, data
    assert list(tmp_path.iterdir()) == []


def test_a_downloaded_file_comes_in_a_zip_and_a_missing_one_is_a_404(client: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "link").symlink_to("f")
    response, data = fetch(client, "GET", f"/download_files?path={tmp_path}/f")
    assert response.getheader("content-type") == "application/zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("f") == b"x"
    _, data = fetch(client, "GET", f"/download_files?path={tmp_path}")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("link") == b"x"
    assert fetch(client, "GET", f"/download_files?path={tmp_path}/g")[0].status == 404
    assert fetch(client, "GET", "/download_files")[0].status == 422


def test_listing_answers_nothing_for_what_can_not_be_listed(client: Any, tmp_path: Path) -> None:
    for name in ("B", "a", ".c"):
        (tmp_path / name).touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "broken").symlink_to("nowhere")
    assert client.ask("POST", "/list_files", {"path": str(tmp_path)}) == (200, ["d/", ".c", "a", "B"])
    for path in (f"{tmp_path}/a", f"{tmp_path}/none", "a\0b"):
        assert client.ask("POST", "/list_files", {"path": path}) == (200, [])
    assert client.ask("POST", "/list_files", {"path": 1})[0] == 422

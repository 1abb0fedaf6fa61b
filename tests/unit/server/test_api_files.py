"""Files over HTTP, as a client of /v1/files has them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.unit.server.conftest import until

FILES = "/v1/files"


def ask(
    client: Any, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.connection.request(method, path, body, named)
    response = client.connection.getresponse()
    return response, response.read()


def content(path: str | Path, **query: str) -> str:
    more = "".join(f"&{name}={value}" for name, value in query.items())
    return f"{FILES}/content?path={quote(os.fsencode(path))}{more}"


def detail(data: bytes) -> str:
    return str(json.loads(data)["detail"])


@pytest.fixture
def folder(client: Any, tmp_path: Path) -> Path:
    """A folder of the server's, fresh for each test."""
    return tmp_path


def test_a_file_is_written_and_read(client: Any, folder: Path) -> None:
    path = folder / "new/deep/f"
    response, data = ask(client, "PUT", content(path), b"0123456789")
    entry = json.loads(data)
    assert response.status == 201
    assert entry["path"] == str(path)
    assert (entry["type"], entry["size"], entry["etag"]) == ("file", 10, response.getheader("etag"))
    response, data = ask(client, "GET", content(path))
    assert (response.status, data) == (200, b"0123456789")
    assert response.getheader("content-length") == "10"
    assert response.getheader("etag") == entry["etag"]
    response, data = ask(client, "HEAD", content(path))
    assert (response.status, data, response.getheader("content-length")) == (200, b"", "10")
    response, _ = ask(client, "PUT", content(path, mode="751"), b"x")
    assert response.status == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o751


def test_empty_files_and_those_of_the_kernel_are_read(client: Any, folder: Path) -> None:
    (folder / "empty").touch()
    assert ask(client, "GET", content(folder / "empty"))[1] == b""
    assert b"VmRSS" in ask(client, "GET", content("/proc/self/status"))[1]
    response, data = ask(client, "GET", content(folder / "empty"), Range="bytes=0-")
    assert (response.status, detail(data)) == (416, "The range is beyond the file's 0 bytes.")


@pytest.mark.parametrize(
    ("wanted", "status", "sent"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=4-2", 200, b"0123456789"),
        ("bytes=1-2,4-5", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_a_part_of_a_file_is_read(
    client: Any, folder: Path, wanted: str, status: int, sent: bytes | None
) -> None:
    (folder / "f").write_bytes(b"0123456789")
    response, data = ask(client, "GET", content(folder / "f"), Range=wanted)
    assert response.status == status
    if sent is None:
        assert response.getheader("content-range") == "bytes */10"
    else:
        assert data == sent


def test_conditions_keep_one_client_from_undoing_another(client: Any, folder: Path) -> None:
    path = folder / "f"
    first, _ = ask(client, "PUT", content(path), b"one", If_None_Match="*")
    assert first.status == 201
    tag = str(first.getheader("etag"))
    assert ask(client, "PUT", content(path), b"two", If_None_Match="*")[0].status == 412
    assert ask(client, "GET", content(path), If_None_Match=tag)[0].status == 304
    assert ask(client, "PUT", content(path), b"three", If_Match=tag)[0].status == 200
    response, data = ask(client, "PUT", content(path), b"four", If_Match=tag)
    assert response.status == 412
    assert "not the expected one" in detail(data)
    assert path.read_bytes() == b"three"
    assert ask(client, "GET", content(path), Range="bytes=0-0", If_Range=tag)[0].status == 200
    assert ask(client, "DELETE", f"{FILES}?path={path}", If_Match=tag)[0].status == 412
    assert ask(client, "DELETE", f"{FILES}?path={path}")[0].status == 204
    assert ask(client, "DELETE", f"{FILES}?path={path}")[0].status == 404


def test_names_that_are_not_utf_8_work_everywhere(client: Any, folder: Path) -> None:
    odd = os.fsencode(folder) + b"/\xff\xfe %"
    assert ask(client, "PUT", content(os.fsdecode(odd)), b"x")[0].status == 201
    assert [os.fsencode(path.name) for path in folder.iterdir()] == [b"\xff\xfe %"]
    _, data = ask(client, "GET", f"{FILES}/list?path={folder}&limit=1")
    (entry,) = json.loads(data)["entries"]
    assert entry["path"] == "\ufffd\ufffd %"
    assert entry["path_encoded"] == "%FF%FE%20%25"
    assert ask(client, "GET", f"{FILES}/content?path={folder}/{entry['path_encoded']}")[1] == b"x"
    body = b'{"from": "%s/\\udcff\\udcfe %%", "to": "%s/plain"}' % ((os.fsencode(folder),) * 2)
    assert ask(client, "POST", f"{FILES}/move", body)[0].status == 200
    assert (folder / "plain").read_bytes() == b"x"


def test_a_large_folder_comes_in_pages(client: Any, folder: Path) -> None:
    for name in ("b/1", "b/2", "a b/x", "c", ".h"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    seen: list[str] = []
    following: str | None = ""
    while following is not None:
        url = f"{FILES}/list?path={folder}&recursive=true&limit=2&after={quote(following)}"
        page = json.loads(ask(client, "GET", url)[1])
        seen += [entry["path"] for entry in page["entries"]]
        following = page["next"]
    assert seen == [".h", "a b", "a b/x", "b", "b/1", "b/2", "c"]
    page = json.loads(ask(client, "GET", f"{FILES}/list?path={folder}&hidden=false")[1])
    assert [entry["path"] for entry in page["entries"]] == ["a b", "b", "c"]


def test_a_long_page_is_whole(client: Any, folder: Path) -> None:
    names = [f"{number:04}" for number in range(1234)]
    for name in names:
        (folder / name).touch()
    page = json.loads(ask(client, "GET", f"{FILES}/list?path={folder}&limit=10000")[1])
    assert [entry["path"] for entry in page["entries"]] == names
    assert page["next"] is None
    found = json.loads(ask(client, "GET", f"{FILES}/glob?path={folder}&pattern=*&limit=1200")[1])
    assert (len(found["paths"]), found["truncated"]) == (1200, "limit")


def test_folders_are_made_moved_and_removed(client: Any, folder: Path) -> None:
    assert client.ask("POST", f"{FILES}/mkdir", {"path": f"{folder}/a/b", "mode": "700"})[0] == 201
    assert client.ask("POST", f"{FILES}/mkdir", {"path": f"{folder}/a/b"})[0] == 409
    assert client.ask("POST", f"{FILES}/mkdir", {"path": f"{folder}/a/b", "exist_ok": True})[0] == 201
    assert stat.S_IMODE((folder / "a/b").stat().st_mode) == 0o700
    move = {"from": f"{folder}/a", "to": f"{folder}/c"}
    assert client.ask("POST", f"{FILES}/move", move)[1]["type"] == "folder"
    assert client.ask("POST", f"{FILES}/move", move)[0] == 404
    (folder / "f").touch()
    assert client.ask("POST", f"{FILES}/move", {"from": f"{folder}/f", "to": f"{folder}/c"})[0] == 409
    assert client.ask("DELETE", f"{FILES}?path={folder}/c")[0] == 409
    assert ask(client, "DELETE", f"{FILES}?path={folder}/c&recursive=true")[0].status == 204
    assert client.ask("DELETE", f"{FILES}?path=/&recursive=true")[0] == 400
    assert [path.name for path in folder.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/etc/passwd/below", 404),
        ("GET", "/etc", 409),
        ("GET", "/dev/zero", 400),
        ("PUT", "/dev/null", 400),
        ("PUT", "/etc", 409),
        ("PUT", "/tmp/" + "x" * 256, 400),
        ("GET", "/a\0b", 422),
    ],
)
def test_what_can_not_be_done_has_the_right_status(client: Any, method: str, path: str, status: int) -> None:
    response, data = ask(client, method, content(path), b"" if method == "PUT" else None)
    assert response.status == status
    assert detail(data)


def test_a_full_disk_is_a_507_before_a_byte_is_sent(client: Any, folder: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    connection.putrequest("PUT", content(folder / "f"))
    connection.putheader("content-length", str(1 << 60))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 507
    assert "The disk is full" in detail(response.read())
    connection.close()
    assert list(folder.iterdir()) == []


def test_a_client_that_goes_away_leaves_the_old_file(client: Any, folder: Path) -> None:
    (folder / "f").write_text("old")
    with socket.create_connection(("127.0.0.1", client.port)) as sender:
        head = f"PUT {content(folder / 'f')} HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"
        sender.sendall(head.encode() + b"x" * 600_000)
        until(lambda: len(list(folder.iterdir())) == 2)
    until(lambda: len(list(folder.iterdir())) == 1)
    assert [path.name for path in folder.iterdir()] == ["f"]
    assert (folder / "f").read_text() == "old"


def test_several_edits_are_one(client: Any, folder: Path) -> None:
    path = str(folder / "f")
    create: dict[str, Any] = {"path": path, "command": "create", "file_text": "a\nb\n"}
    change = {"path": path, "command": "str_replace", "old_str": "b", "new_str": "c"}
    wrong = {"path": path, "command": "str_replace", "old_str": "zz", "new_str": "c"}
    status, answer = client.ask("POST", f"{FILES}/edit", {"edits": [create, wrong]})
    assert status == 409
    assert "Edit 2 of 2" in answer["detail"]
    assert not Path(path).exists()
    status, answer = client.ask("POST", f"{FILES}/edit", {"edits": [create, change]})
    assert status == 200
    assert answer["results"][1]["diff"].endswith("@@ -2 +2 @@\n-b\n+c")
    assert Path(path).read_text() == "a\nc\n"

"""Finding files and lines, and hearing of changes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from tests.unit.server.conftest import Events

from graftbox.server import search
from graftbox.server.api import search as search_api
from graftbox.server.identity import Identity
from graftbox.server.watch import Watch

FILES = "/v1/files"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.py", "b.txt", "src/c.py", "src/deep/d.py", ".hidden/e.py", "src/.f.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\nneedle here\nand a Needle there\n")
    return tmp_path


def paths(client: Any, tree: Path, **query: object) -> list[str]:
    status, found = client.ask("GET", f"{FILES}/glob?" + urlencode({"path": tree, **query}))
    assert status == 200, found
    return sorted(each["path"] for each in found["paths"])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["a.py"]),
        ("**/*.py", ["a.py", "src/c.py", "src/deep/d.py"]),
        ("src/**", ["src/c.py", "src/deep", "src/deep/d.py"]),
        ("**/deep/*", ["src/deep/d.py"]),
        ("[ab].*", ["a.py", "b.txt"]),
        (".hidden/*", [".hidden/e.py"]),
        ("s?c", ["src"]),
        ("nothing", []),
    ],
)
def test_files_are_found_by_name(client: Any, tree: Path, pattern: str, found: list[str]) -> None:
    assert paths(client, tree, pattern=pattern) == found


def test_hidden_files_limits_and_mistakes_of_a_glob(client: Any, tree: Path) -> None:
    hidden = paths(client, tree, pattern="**/*.py", hidden="true")
    assert ".hidden/e.py" in hidden
    assert "src/.f.py" in hidden
    status, found = client.ask("GET", f"{FILES}/glob?path={tree}&pattern=**&limit=2")
    assert (status, len(found["paths"]), found["truncated"]) == (200, 2, "limit")
    assert client.ask("GET", f"{FILES}/glob?path={tree}&pattern=../*")[0] == 422
    assert client.ask("GET", f"{FILES}/glob?path={tree}/none&pattern=*")[0] == 404


def ripgrep() -> str | None:
    return search.RIPGREP if Path(search.RIPGREP).exists() else shutil.which("rg")


@pytest.fixture(params=["ripgrep", "without"])
def grepping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with ripgrep and once without."""
    if request.param == "ripgrep" and not ripgrep():
        pytest.skip("ripgrep is not installed")
    if request.param == "without":
        monkeypatch.setattr(search, "RIPGREP", "/none")
        monkeypatch.setenv("PATH", "/none")


def grep(path: Path, pattern: str, **options: Any) -> search.Result:
    return asyncio.run(search.grep(search.Query(pattern, **options), path, Identity.own()))


@pytest.mark.usefixtures("grepping")
def test_lines_are_found_by_pattern(tree: Path) -> None:
    (tree / "binary").write_bytes(b"\0needle\n")
    found = grep(tree, "n(e+)dle").found
    assert [(each["path"], each["line"], each["text"]) for each in found] == [
        ("a.py", 2, "needle here"),
        ("b.txt", 2, "needle here"),
        ("src/c.py", 2, "needle here"),
        ("src/deep/d.py", 2, "needle here"),
    ]
    assert found[0]["spans"] == [[0, 6]]
    assert len(grep(tree, "needle", ignore_case=True, globs=("*.py",)).found) == 6
    assert len(grep(tree, "needle", globs=("*.py", "!c.*")).found) == 2
    assert [each["path"] for each in grep(tree, "needle", globs=("src/*.py",)).found] == ["src/c.py"]
    assert grep(tree, "n(e+)dle", fixed=True).found == []
    assert len(grep(tree, "needle", hidden=True).found) == 6
    around = grep(tree / "a.py", "needle", context=1).found
    assert [(each["line"], each["match"]) for each in around] == [(1, False), (2, True), (3, False)]


@pytest.mark.usefixtures("grepping")
def test_a_search_ends_at_its_limit_and_in_time(tree: Path) -> None:
    result = grep(tree, "needle", limit=2)
    assert (len(result.found), result.truncated) == (2, "limit")
    os.mkfifo(tree / "zzz")
    (tree / "long").write_text("ü needle " + "x" * 10_000)
    (match,) = grep(tree / "long", "needle").found
    assert match["spans"] == [[2, 8]]
    assert len(match["text"]) == search.LONGEST_LINE


def test_a_search_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "RIPGREP", "/none")
    monkeypatch.setenv("PATH", "/none")
    (tmp_path / "f").write_text("a" * 40 + "b")
    assert grep(tmp_path, "(a+)+$", timeout=0.7).truncated == "timeout"


def test_a_search_over_http(client: Any, tree: Path) -> None:
    status, found = client.ask("GET", f"{FILES}/grep?path={tree}&pattern=needle&glob=a.py")
    assert (status, found["truncated"]) == (200, None)
    assert [each["line"] for each in found["lines"]] == [2]
    body = {"pattern": "needle", "path": str(tree), "globs": ["*.py", "!a.py"]}
    assert len(client.ask("POST", f"{FILES}/grep", body)[1]["lines"]) == 2
    status, refused = client.ask("GET", f"{FILES}/grep?path={tree}&pattern={quote('(')}")
    assert status == 422
    assert "regex parse error" in refused["detail"]
    assert client.ask("GET", f"{FILES}/grep?path={tree}/none&pattern=x")[0] == 404


def test_a_search_ends_with_its_client(start: Any, tmp_path: Path) -> None:
    # Without ripgrep this pattern takes for ever on this text; with it, the other requests need no turn.
    client = start(environment={"PATH": "/usr/bin:/bin"})
    (tmp_path / "f").write_text("a" * 60 + "b")
    query = urlencode({"path": tmp_path, "pattern": "(a+)+$", "timeout": 60})
    for _ in range(search_api.SEARCHES + 1):
        with socket.create_connection(("127.0.0.1", client.port)) as sender:
            sender.sendall(f"GET {FILES}/grep?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(0.05)
    status, found = client.ask("GET", f"{FILES}/grep?path={tmp_path}&pattern=b")
    assert (status, len(found["lines"])) == (200, 1)


class Changes(Events):
    """The events of one watch."""

    def __init__(self, port: int, path: Path, recursive: bool = False) -> None:
        super().__init__(port, "GET", f"{FILES}/watch?path={path}&recursive={str(recursive).lower()}")
        assert next(self)[0] == "ready"

    def until(self, kind: str, path: str) -> Any:
        for found, _, data in self:
            if (found, data.get("path")) == (kind, path):
                return data
        raise AssertionError(f"no {kind} of {path}")


def test_changes_are_told_as_they_happen(client: Any, tmp_path: Path) -> None:
    changes = Changes(client.port, tmp_path)
    (tmp_path / "f").write_text("x")
    assert changes.until("created", "f") == {"path": "f", "folder": False}
    changes.until("written", "f")
    (tmp_path / "f").rename(tmp_path / "g")
    assert changes.until("moved", "f")["to"] == "g"
    (tmp_path / "g").unlink()
    changes.until("deleted", "g")
    tmp_path.rmdir()
    changes.until("deleted", ".")
    assert list(changes) == []
    changes.close()


def test_new_folders_are_watched_too(client: Any, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    changes = Changes(client.port, tmp_path, recursive=True)
    (tmp_path / "old/f").touch()
    changes.until("created", "old/f")
    (tmp_path / "new/deep").mkdir(parents=True)
    changes.until("created", "new/deep")
    (tmp_path / "new/deep/f").touch()
    changes.until("created", "new/deep/f")
    (tmp_path / "new").rename(tmp_path / "old/moved")
    assert changes.until("moved", "new")["to"] == "old/moved"
    (tmp_path / "old/moved/deep/g").touch()
    changes.until("created", "old/moved/deep/g")
    changes.close()


def test_a_watch_can_not_be_had_for_what_is_not_there(client: Any, tmp_path: Path) -> None:
    status, answer = client.ask("GET", f"{FILES}/watch?path={tmp_path}/none")
    assert status == 404
    assert "There is no such file" in answer["detail"]


def test_a_closed_watch_leaves_no_open_file(tmp_path: Path) -> None:
    async def main() -> None:
        watch = Watch(tmp_path, True, Identity.own())
        await watch.open()
        events = watch.events()
        (tmp_path / "f").touch()
        assert (await anext(events))[0]["type"] == "created"
        await events.aclose()
        handle = watch.handle
        watch.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(handle)

    asyncio.run(main())


def test_a_watch_ends_with_its_client(client: Any, tmp_path: Path) -> None:
    several = [Changes(client.port, tmp_path) for _ in range(32)]
    status, answer = client.ask("GET", f"{FILES}/watch?path={tmp_path}")
    assert status == 429
    assert "Close one of them" in answer["detail"]
    deadline = time.monotonic() + 60
    for each in several:
        each.close()
        # What is not there is only looked for once there is room for one more.
        while client.ask("GET", f"{FILES}/watch?path=/none")[0] == 429:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        several[several.index(each)] = Changes(client.port, tmp_path)
    for each in several:
        each.close()

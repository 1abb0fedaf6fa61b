"""Archives as parts of a recipe: pinned by hash, fetched like packages, unpacked without surprises."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import archive, locking, plan, recipe, relocation, stage
from graftbox.bundle import lock as locks
from graftbox.bundle.content import Content, File, Link
from graftbox.bundle.download import Downloader
from graftbox.bundle.fetch import fetch
from graftbox.bundle.locking import Workshop
from graftbox.bundle.sources import Sources
from graftbox.errors import (
    FormatError,
    GraftboxError,
    NotFoundError,
    TransportError,
    UsageError,
    VerificationError,
)
from graftbox.store import Store

MakeElf = Callable[..., bytes]
FILES: dict[str, Any] = {
    "editor-1.2-linux-x64/bin/edit": b"#!/usr/bin/env sh\n",
    "editor-1.2-linux-x64/out/main.js": b"main",
    "editor-1.2-linux-x64/out/again.js": "-> main.js",
    "editor-1.2-linux-x64/LICENSE.txt": b"MIT",
}


def tar(files: Mapping[str, Any], mode: str = "w:gz", *more: tarfile.TarInfo) -> bytes:
    """An archive; ``-> x`` is a link; files below bin/ are executable."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as made:  # type: ignore[call-overload]  # any of its modes
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data.removeprefix("-> ")
                made.addfile(member)
                continue
            member.size, member.mode = len(data), 0o755 if "/bin/" in name else 0o644
            made.addfile(member, io.BytesIO(data))
        for member in more:
            made.addfile(member)
    return buffer.getvalue()


def zipped(files: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            if isinstance(data, str):
                info.external_attr = 0o120777 << 16
                made.writestr(info, data.removeprefix("-> "))
            else:
                info.external_attr = (0o100755 if "/bin/" in name else 0o100644) << 16
                made.writestr(info, data)
    return buffer.getvalue()


def unpacked(tmp_path: Path, data: bytes, strip: int = 1) -> Content:
    path = tmp_path / "blob"
    path.write_bytes(data)
    return dict(archive.nodes(path, "editor 1.2", strip))


FORMS = {
    "tar": lambda files: tar(files, "w"),
    "gzip": tar,
    "bzip2": lambda files: tar(files, "w:bz2"),
    "xz": lambda files: tar(files, "w:xz"),
    "zip": zipped,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_of_any_form_has_the_same_files(tmp_path: Path, form: str) -> None:
    origin = "editor 1.2"
    assert unpacked(tmp_path, FORMS[form](FILES)) == {
        "bin/edit": File(b"#!/usr/bin/env sh\n", executable=True, origin=origin),
        "out/main.js": File(b"main", origin=origin),
        "out/again.js": Link("main.js"),
        "LICENSE.txt": File(b"MIT", origin=origin),
    }


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize(
    "files",
    [
        {"../escaped": b""},
        {"top/../../escaped": b""},
        {"/etc/passwd": b""},
        {"top\\..\\escaped": b""},
        {"top/link": "-> /etc/passwd"},
        {"top/link": "-> ../escaped"},
        {"top/a/link": "-> ../../escaped"},
    ],
)
def test_nothing_leads_out_of_an_archive(
    tmp_path: Path, make: Callable[[Mapping[str, Any]], bytes], files: dict[str, Any]
) -> None:
    with pytest.raises(FormatError, match="leads out of it"):
        unpacked(tmp_path, make(files))


def test_a_hard_link_is_a_copy_and_a_device_is_refused(tmp_path: Path) -> None:
    hard = tarfile.TarInfo("top/b")
    hard.type, hard.linkname = tarfile.LNKTYPE, "top/a"
    found = unpacked(tmp_path, tar({"top/a": b"data"}, "w:gz", hard))
    assert found["b"] == found["a"]
    hard.linkname = "../a"
    with pytest.raises(FormatError, match="leads out of it"):
        unpacked(tmp_path, tar({}, "w:gz", hard))
    device = tarfile.TarInfo("top/null")
    device.type = tarfile.CHRTYPE
    with pytest.raises(FormatError, match="a device"):
        unpacked(tmp_path, tar({}, "w:gz", device))


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 1000)
    for make in (tar, zipped):
        with pytest.raises(FormatError, match="more than 1000 bytes"):
            unpacked(tmp_path, make({"top/a": bytes(600), "top/b": bytes(600)}))


@pytest.mark.parametrize("data", [b"", b"hello", tar(FILES)[:-40], zipped(FILES)[:-30]])
def test_a_damaged_archive_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError, match=r"editor 1\.2"):
        unpacked(tmp_path, data)


RECIPE = """
[debian]
suites = ["stable"]

[component.core]

[[component.core.archive]]
name = "editor"
version = "1.2"
strip = 1
amd64 = {{ from = "{address}", sha256 = "{sha256}" }}

[component.core.stage]
from-archive = [{{ from = "editor", to = "editor", except = ["LICENSE.txt"] }}]
"""


def parsed(tmp_path: Path, address: str, data: bytes) -> recipe.Recipe:
    text = RECIPE.format(address=address, sha256=hashlib.sha256(data).hexdigest())
    return recipe.parse(text.encode(), tmp_path / "mine.toml")


def locked(made: recipe.Recipe, store: Store) -> locks.LockedArchive:
    workshop = Workshop(store, Sources({}, {}))
    with Downloader(pauses=(0.0,)) as downloader:
        (entry,) = locking._archives(made, "amd64", workshop, downloader)
        assert locking._archives(made, "arm64", workshop, downloader) == ()
    return entry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_an_archive_is_locked_by_its_hash_and_fetched_from_where_the_recipe_says(
    site: Any, tmp_path: Path, store: Store
) -> None:
    data = site.files["/editor.tar.gz"] = tar(FILES)
    made = parsed(tmp_path, f"{site.url}/editor.tar.gz", data)
    entry = locked(made, store)
    assert (entry.name, entry.version, entry.size, entry.components) == (
        "editor",
        "1.2",
        len(data),
        ("core",),
    )
    lock = locks.Lock(made.resolution_digest, {}, {"amd64": locks.LockedArchitecture(archives=(entry,))})
    assert locks.parse(lock.to_json(), "it") == lock
    assert site.url.encode() not in lock.to_json()
    store.blob_path(f"sha256:{entry.sha256}").unlink()
    asked = len(site.asked)
    assert fetch([entry], store, Sources({}, {}), recipe=made)[entry].read_bytes() == data
    assert len(site.asked) == asked + 1
    # From now on it is there: without any network.
    site.files.clear()
    assert fetch([entry], store, Sources({}, {}), recipe=made)[entry].read_bytes() == data
    assert locked(made, store) == entry


def test_another_archive_than_the_promised_one_is_not_kept(site: Any, tmp_path: Path, store: Store) -> None:
    data = site.files["/editor.tar.gz"] = tar(FILES)
    made = parsed(tmp_path, f"{site.url}/editor.tar.gz", data)
    entry = locked(made, store)
    store.blob_path(f"sha256:{entry.sha256}").unlink()
    other = site.files["/editor.tar.gz"] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(VerificationError, match=f"it is {hashlib.sha256(other).hexdigest()}.*recipe"):
        fetch([entry], store, Sources({}, {}), recipe=made)
    with pytest.raises(VerificationError, match=f"its sha256 is {hashlib.sha256(other).hexdigest()}"):
        locked(made, store)
    assert not store.has(f"sha256:{entry.sha256}", entry.size)


def test_an_archive_that_is_nowhere_is_named_with_its_place(tmp_path: Path, store: Store) -> None:
    data = tar(FILES)
    made = parsed(tmp_path, "downloads/editor.tar.gz", data)
    with pytest.raises(NotFoundError, match=r"downloads/editor\.tar\.gz"):
        locked(made, store)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/editor.tar.gz").write_bytes(data)
    entry = locked(made, store)
    store.blob_path(f"sha256:{entry.sha256}").unlink()
    (tmp_path / "downloads/editor.tar.gz").unlink()
    with pytest.raises(NotFoundError, match=r"editor 1\.2 is not at .*downloads/editor\.tar\.gz"):
        fetch([entry], store, Sources({}, {}), recipe=made)


def test_without_a_network_the_address_is_named(tmp_path: Path, store: Store) -> None:
    made = parsed(tmp_path, "http://127.0.0.1:1/editor.tar.gz", tar(FILES))
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1/editor\.tar\.gz"):
        locked(made, store)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "editor"', 'name = "../editor"', "name"),
        ("strip = 1", 'strip = "1"', "strip"),
        ("strip = 1", "strip = true", "strip"),
        ('version = "1.2"', "", "version"),
        ('sha256 = "', 'sha256 = "x', "sha256"),
        ('from = "a.zip"', 'from = ""', "from"),
        ("amd64 =", "riscv =", "riscv"),
        ("amd64 = {", "# {", "amd64"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = RECIPE.format(address="a.zip", sha256="0" * 64)
    assert old in text
    with pytest.raises(UsageError, match=says):
        recipe.parse(text.replace(old, new).encode(), tmp_path / "mine.toml")


def test_the_files_of_an_archive_are_staged_and_relocated_as_others_are(
    tmp_path: Path, make_deb: Callable[..., bytes], make_elf: MakeElf
) -> None:
    folder = "usr/lib/x86_64-linux-gnu"
    libc = {
        f"{folder}/ld-linux-x86-64.so.2": make_elf(soname="ld-linux-x86-64.so.2"),
        f"{folder}/libc.so.6": make_elf(soname="libc.so.6"),
    }
    (tmp_path / "libc6.deb").write_bytes(make_deb(libc))
    program = make_elf(needed=["libc.so.6"], interpreter="/lib64/ld-linux-x86-64.so.2")
    files = {**FILES, "editor-1.2-linux-x64/bin/run": program}
    (tmp_path / "blob").write_bytes(tar(files))
    table = plan.parse({"from-archive": [{"from": "editor", "to": "e", "except": ["LICENSE.txt"]}]}, "amd64")
    packages = {"libc6 1": tmp_path / "libc6.deb"}
    content = stage.stage(table, packages, {}, "amd64", archives={"editor 1.2": (tmp_path / "blob", 1)})
    names = {path for path in content if path.startswith("e/")}
    assert names == {"e/bin/edit", "e/bin/run", "e/out/main.js", "e/out/again.js"}
    assert {"lib/ld.so", "lib/libc.so.6"} <= content.keys()
    own = {path: node for path, node in content.items() if path.startswith("e/")}
    relocation.relocate(own, "amd64")
    node, script = own["e/bin/run"], own["e/bin/edit"]
    assert isinstance(node, File)
    assert isinstance(script, File)
    assert b"/openhands/lib/ld.so\0" in node.data
    assert script.data == b"#!/openhands/libexec/dash\n"


def test_a_take_that_an_archive_has_nothing_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(tar(FILES))
    table = plan.parse({"from-archive": [{"from": "editor/none", "to": "e"}]}, "amd64")
    with pytest.raises(GraftboxError, match="editor/none"):
        stage.stage(table, {}, {}, "amd64", archives={"editor 1.2": (tmp_path / "blob", 1)})


EXTENDED = """
extends = "openhands"
[component.vscode]
npm = []
[component.vscode.stage]
from-npm = []
native = {}
[component.extra]
packages = ["sl"]
"""


def test_a_recipe_that_extends_the_built_in_one_replaces_what_it_names(tmp_path: Path) -> None:
    base, made = recipe.Recipe.builtin(), recipe.parse(EXTENDED.encode(), tmp_path / "mine.toml")
    assert [*made.components] == [*base.components, "extra"]
    assert made.component("core") == base.component("core")
    vscode = made.component("vscode")
    assert vscode.npm == ()
    assert vscode.packages == base.component("vscode").packages
    assert vscode.stage is not None
    assert plan.parse(vscode.stage, "amd64").native is None
    assert vscode.stage["scripts"] == (base.component("vscode").stage or {})["scripts"]
    assert made.keyring == base.keyring
    assert made.keyring.is_file()
    assert made.lock_path == tmp_path / "mine.lock.json"
    assert made.resolution_digest != base.resolution_digest
    with pytest.raises(UsageError, match="extends"):
        recipe.parse(b'extends = "nothing"', tmp_path / "mine.toml")


def test_a_recipe_without_archives_has_the_lock_it_had(tmp_path: Path) -> None:
    lock = locks.Lock("sha256:0", {}, {"amd64": locks.LockedArchitecture()})
    assert "archives" not in json.loads(lock.to_json())["architectures"]["amd64"]
    assert os.fsencode(tmp_path) not in lock.to_json()

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle.download import Downloader
from graftbox.bundle.fetch import fetch
from graftbox.bundle.lock import Entry, LockedPackage, LockedWheel
from graftbox.bundle.recipe import Recipe
from graftbox.errors import NotFoundError, StorageError, TransportError, VerificationError
from graftbox.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def package(archive: Any) -> LockedPackage:
    found: LockedPackage = archive.add("trixie", "bash")
    return found


def patient() -> Downloader:
    """Tries again as usual, without waiting."""
    return Downloader(pauses=(0.0, 0.0, 0.0))


def url(package: LockedPackage) -> str:
    return f"/{package.archive}/{package.path}"


def leftovers(store: Store) -> list[str]:
    return [path.name for path in (store.root / "tmp").iterdir()]


class Watcher:
    def __init__(self) -> None:
        self.total = self.arrived = 0

    def start(self, what: str, total: int) -> None:
        self.total += total

    def advance(self, amount: int) -> None:
        self.arrived += amount

    def done(self) -> None: ...


def test_packages_are_fetched_once_and_progress_adds_up(archive: Any, store: Store, tmp_path: Path) -> None:
    packages = [archive.add("trixie", f"p{n}") for n in range(20)]
    packages.append(archive.add("trixie-security", "s"))
    watcher = Watcher()
    paths = fetch(packages, store, archive.sources(tmp_path), watcher)
    assert all(hashlib.sha256(paths[p].read_bytes()).hexdigest() == p.sha256 for p in packages)
    assert watcher.arrived == watcher.total == sum(p.size for p in packages)
    asked = len(archive.site.asked)
    assert fetch(packages, store, archive.sources(tmp_path)) == paths
    assert len(archive.site.asked) == asked == 21
    assert leftovers(store) == []


def test_a_truncated_download_goes_on_where_it_ended(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    archive.site.cut[url(package)] = 1500
    watcher = Watcher()
    fetch([package], store, archive.sources(tmp_path), watcher, patient())
    assert [extent for _, _, extent in archive.site.asked] == ["", "bytes=1500-"]
    assert watcher.arrived == package.size


def test_a_server_without_ranges_is_asked_for_everything_again(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    archive.site.cut[url(package)] = 1500
    archive.site.ranges = False
    watcher = Watcher()
    fetch([package], store, archive.sources(tmp_path), watcher, patient())
    assert watcher.arrived == package.size


def test_a_busy_server_is_asked_again(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    archive.site.failures[url(package)] = 2
    fetch([package], store, archive.sources(tmp_path), downloader=patient())


def test_another_file_of_the_same_size_is_refused_and_not_kept(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    good = archive.site.files[url(package)]
    archive.site.files[url(package)] = b"x" * package.size
    with pytest.raises(VerificationError, match="sha256 differs"):
        fetch([package], store, archive.sources(tmp_path))
    assert not store.has(f"sha256:{package.sha256}")
    archive.site.files[url(package)] = good
    fetch([package], store, archive.sources(tmp_path))
    assert leftovers(store) == []


def test_a_file_that_was_cut_off_in_the_store_is_fetched_again(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    path = fetch([package], store, archive.sources(tmp_path))[package]
    path.write_bytes(path.read_bytes()[:10])
    fetch([package], store, archive.sources(tmp_path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256


def test_a_file_of_another_size_is_refused_before_it_is_read(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    archive.site.files[url(package)] += b"more"
    with pytest.raises(VerificationError, match="bytes where"):
        fetch([package], store, archive.sources(tmp_path))


@pytest.mark.parametrize("rest", [b"wrong", b"x" * 100_000])
def test_a_wrong_beginning_from_an_earlier_run_is_thrown_away(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage, rest: bytes
) -> None:
    (store.folder("tmp") / f"{package.sha256}.part").write_bytes(rest)
    watcher = Watcher()
    fetch([package], store, archive.sources(tmp_path), watcher, patient())
    assert watcher.arrived == package.size


def test_a_second_mirror_helps_where_the_first_fails(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    mirrors = f"http://127.0.0.1:9/debian {archive.site.url}/empty {archive.site.url}/debian"
    fetch([package], store, archive.sources(tmp_path, debian_mirror=mirrors), downloader=patient())


def test_an_unreachable_mirror_is_named_without_its_password(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    sources = archive.sources(tmp_path, debian_mirror="http://me:secret@127.0.0.1:9/debian")
    with pytest.raises(
        TransportError, match=r"Cannot reach http://127\.0\.0\.1:9/debian.*Check the network"
    ) as caught:
        fetch([package], store, sources, downloader=patient())
    assert "secret" not in str(caught.value)


def test_all_packages_that_are_gone_are_named_in_one_message(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    gone = [archive.add("trixie", name) for name in ("curl", "git")]
    for lost in gone:
        del archive.site.files[url(lost)]
    with pytest.raises(NotFoundError) as caught:
        fetch([*gone, package], store, archive.sources(tmp_path))
    assert "curl 1.0, git 1.0" in str(caught.value)
    assert "graftbox lock --update-missing" in str(caught.value)
    assert store.has(f"sha256:{package.sha256}")
    assert leftovers(store) == []
    with pytest.raises(NotFoundError, match="graftbox lock tools --update-missing"):
        fetch(gone, store, archive.sources(tmp_path), recipe=Recipe.builtin("tools"))


def test_a_gone_package_comes_from_the_snapshot_archive(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    data = archive.site.files.pop(url(package))
    archive.site.files[f"/snap/debian/20261101T000000Z/{package.path}"] = data
    fetch([package], store, archive.sources(tmp_path, snapshot=f"{archive.site.url}/snap"))


def test_a_mirror_on_disk_works_like_one_on_the_network(
    archive: Any, store: Store, tmp_path: Path, package: LockedPackage
) -> None:
    file = tmp_path / "mirror" / package.path
    file.parent.mkdir(parents=True)
    file.write_bytes(archive.site.files[url(package)])
    sources = archive.sources(tmp_path, debian_mirror=(tmp_path / "mirror").as_uri())
    fetch([package], store, sources)
    assert archive.site.asked == []


WHEEL = b"a wheel " * 100
FILENAME = "my_project-1.0-py3-none-any.whl"


def wheel(data: bytes = WHEEL) -> LockedWheel:
    return LockedWheel("my-project", "1.0", FILENAME, len(data), hashlib.sha256(data).hexdigest(), ("core",))


def test_a_wheel_is_looked_up_by_its_name_in_a_json_index(archive: Any, store: Store, tmp_path: Path) -> None:
    entry, site = wheel(), archive.site
    page = {"files": [{"filename": FILENAME, "url": "../../files/w", "hashes": {"sha256": entry.sha256}}]}
    site.files |= {"/simple/my-project/": json.dumps(page).encode(), "/files/w": WHEEL}
    site.types["/simple/my-project/"] = "application/vnd.pypi.simple.v1+json"
    fetch([entry], store, archive.sources(tmp_path))


def test_a_wheel_is_looked_up_in_an_html_index_and_other_hashes_are_passed_over(
    archive: Any, store: Store, tmp_path: Path
) -> None:
    entry, site = wheel(), archive.site
    site.files["/bad/my-project/"] = f'<a href="/x/{FILENAME}#sha256={"0" * 64}">x</a>'.encode()
    site.files["/simple/my-project/"] = f'<a href="/x/{FILENAME}#sha256={entry.sha256}">x</a>'.encode()
    site.files[f"/x/{FILENAME}"] = WHEEL
    fetch([entry], store, archive.sources(tmp_path, index_url=f"{site.url}/bad {site.url}/simple"))


def test_a_wheel_is_found_in_an_index_on_disk(archive: Any, store: Store, tmp_path: Path) -> None:
    project = tmp_path / "simple" / "my-project"
    project.mkdir(parents=True)
    (project / FILENAME).write_bytes(WHEEL)
    sources = archive.sources(tmp_path, index_url=(tmp_path / "simple").as_uri())
    fetch([wheel()], store, sources)
    (project / "index.html").write_text(f'<a href="{FILENAME}">x</a>')
    fetch([wheel()], Store(tmp_path / "other"), sources)


def test_a_wheel_that_no_index_has_is_named(archive: Any, store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"No package index has {FILENAME}.*--update-missing"):
        fetch([wheel()], store, archive.sources(tmp_path))


SCRIPT = """
    import json, sys
    from pathlib import Path
    from graftbox.bundle.fetch import fetch
    from graftbox.bundle.lock import LockedPackage
    from graftbox.bundle.sources import Sources
    from graftbox.errors import GraftboxError
    from graftbox.store import Store
    mirror, cache, facts = sys.argv[1:]
    entries = [LockedPackage(**(f | {"components": ()})) for f in json.loads(facts)]
    try:
        fetch(entries, Store(Path(cache)), Sources.find({}, debian_mirror=mirror))
    except GraftboxError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def process(archive: Any, store: Store, entries: list[Entry], **options: Any) -> subprocess.Popen[str]:
    """`fetch` in a process of its own."""
    facts = json.dumps([dataclasses.asdict(entry) for entry in entries])
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(SCRIPT),
        f"{archive.site.url}/debian",
        str(store.root),
        facts,
    ]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **options)


def big(archive: Any, name: str = "big", size: int = 400_000) -> LockedPackage:
    """A package large enough to be interrupted."""
    package: LockedPackage = archive.add("trixie", name)
    data = (name.encode() * size)[:size]
    archive.site.files[url(package)] = data
    return dataclasses.replace(package, size=size, sha256=hashlib.sha256(data).hexdigest())


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_ctrl_c_keeps_what_has_arrived_and_the_next_run_goes_on(
    archive: Any, store: Store, tmp_path: Path
) -> None:
    package = big(archive)
    archive.site.trickle = 0.05
    part = store.root / "tmp" / f"{package.sha256}.part"
    with process(archive, store, [package]) as running:
        wait_for(lambda: part.exists() and part.stat().st_size > 0)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode != 0
    assert 0 < part.stat().st_size < package.size
    assert not store.has(f"sha256:{package.sha256}")
    archive.site.trickle = 0
    fetch([package], store, archive.sources(tmp_path))
    assert archive.site.asked[-1][2].startswith("bytes=")


def test_two_processes_on_one_cache_share_the_work(archive: Any, store: Store) -> None:
    packages = [big(archive, name, 50_000) for name in ("one", "two", "three")]
    archive.site.trickle = 0.002
    both = [process(archive, store, list(packages)) for _ in range(2)]
    for running in both:
        _, complaint = running.communicate(timeout=60)
        assert (running.returncode, complaint) == (0, "")
    assert len(archive.site.asked) == 3
    assert all(store.has(f"sha256:{package.sha256}") for package in packages)
    assert leftovers(store) == []


def test_a_full_disk_is_an_error_that_says_where_and_the_next_run_succeeds(
    archive: Any, store: Store, tmp_path: Path
) -> None:
    package = big(archive)

    def small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    with process(archive, store, [package], preexec_fn=small_files_only) as running:
        _, complaint = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "StorageError" in complaint
    assert str(store.root) in complaint
    fetch([package], store, archive.sources(tmp_path))


def test_a_cache_that_may_not_be_written_is_named(
    archive: Any, tmp_path: Path, package: LockedPackage
) -> None:
    with pytest.raises(StorageError, match="GRAFTBOX_CACHE"):
        fetch([package], Store(Path("/sys/nowhere")), archive.sources(tmp_path))

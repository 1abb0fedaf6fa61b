from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graftbox.bundle import pyinstaller
from graftbox.bundle.build import BINARY, SERVER, Job, job_class
from graftbox.bundle.content import Content, File, Link
from graftbox.bundle.flavor import FrozenJob, is_pythons
from graftbox.bundle.lock import Lock
from graftbox.bundle.native import architecture
from graftbox.bundle.recipe import Recipe
from graftbox.errors import FormatError, UnsupportedError, UsageError
from graftbox.store import Store

OTHER = {"amd64": "arm64", "arm64": "amd64"}[architecture()]


@pytest.fixture
def frozen(tmp_path: Path) -> Job:
    return job_class("pyinstaller").of(store=Store(tmp_path))


def test_each_flavour_has_a_lock_and_layers_of_its_own(tmp_path: Path, frozen: Job) -> None:
    tree = job_class("tree").of(store=Store(tmp_path))
    assert isinstance(frozen, FrozenJob)
    assert frozen.lock.digest != tree.lock.digest
    assert frozen.path != tree.path
    assert (tree.layer_names[-1], frozen.layer_names[-1]) == (SERVER, BINARY)
    assert frozen.layer_names[:-1] == tree.layer_names[:-1]
    assert not {frozen.key(name) for name in frozen.layer_names} & {tree.key(n) for n in tree.layer_names}
    names = {entry.name for entry in frozen.lock.entries(frozen.arch, ["pyinstaller"])}
    assert {"libpython3.13", "pyinstaller"} <= names


def test_a_flavour_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="tree, pyinstaller"):
        job_class("oak")


def test_another_architecture_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"on an {OTHER} machine"):
        job_class("pyinstaller").of(arch=OTHER, store=Store(tmp_path))


def test_locks_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    lock = Lock.of(Recipe.builtin())
    arch = architecture()
    ours = lock.architecture(arch)
    older = [replace(p, version="3.13.0-1") if p.name == "python3.13" else p for p in ours.packages]
    other = replace(lock, architectures={arch: replace(ours, packages=tuple(older))})
    with pytest.raises(UsageError, match="graftbox lock pyinstaller"):
        job_class("pyinstaller").of(store=Store(tmp_path), lock=other)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("lib/python3.13/os.py", True),
        ("libexec/python3.13", True),
        ("bin/action-execution-server", True),
        ("code/graftbox/errors.py", True),
        ("lib/libssl.so.3", False),
        ("bin/oh-python", False),
        ("share/doc/python3.13/copyright", False),
    ],
)
def test_what_is_pythons_is_told_by_its_place(path: str, expected: bool) -> None:
    assert is_pythons(path) is expected


def test_a_folder_made_elsewhere_gets_the_bundles_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own libraries stay only where the bundle has none of that name."""
    monkeypatch.setattr(pyinstaller, "relocated", lambda content, arch: content)
    inside = tmp_path / "_inside"
    (inside / "wheel.libs").mkdir(parents=True)
    (tmp_path / pyinstaller.NAME).write_text("program")
    for name in ("base_library.zip", "libssl.so.3", "libodd.so.1", "wheel.libs/libssl.so.3"):
        (inside / name).write_text(name)
    (inside / "libodd.so").symlink_to("libodd.so.1")
    tree: Content = {"lib/libssl.so.3": File(b"ours", origin="libssl3t64 3.5")}
    made = pyinstaller.moved(tmp_path, tree, architecture())
    place = f"{pyinstaller.PLACE}/_inside"
    assert made["lib/libodd.so.1"] == Link(f"../{place}/libodd.so.1")
    assert f"{place}/libssl.so.3" not in made
    assert f"{place}/wheel.libs/libssl.so.3" in made
    program = made[f"{pyinstaller.PLACE}/{pyinstaller.NAME}"]
    assert isinstance(program, File)
    assert program.executable


def test_a_folder_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no program"):
        pyinstaller.folder_content(tmp_path, {})

"""A shell of this machine plays the browser: what is moved must really start, from its own libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from graftbox.bundle import elf, portable
from graftbox.errors import UsageError

SHELL = Path("/bin/sh").resolve()
MAPS = 'while read -r line; do echo "$line"; done < /proc/self/maps'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An /openhands with a shell as its browser and as its dash."""
    folder = tmp_path / "openhands"
    for name in (portable.CHROMIUM, portable.DASH):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(SHELL, folder / name)
    (folder / "lib").mkdir()
    interpreter = elf.parse(SHELL.read_bytes(), "sh").interpreter
    assert interpreter is not None
    shutil.copy(interpreter.text, folder / portable.LOADER)
    listed = subprocess.run([interpreter.text, "--list", SHELL], capture_output=True, text=True, check=True)
    for name, path in re.findall(r"(\S+) => (\S+)", listed.stdout):
        if not name.startswith("ld-linux"):
            shutil.copy(path, folder / "lib" / name)
    (folder / "browser/fonts.conf").write_text("<dir>/openhands/browser/fonts</dir>")
    (folder / "bin").mkdir()
    script = f'#!/openhands/{portable.DASH}\nexec /openhands/{portable.CHROMIUM} "$@"\n'
    (folder / portable.WRAPPER).write_text(script)
    (folder / "share/doc/chromium").mkdir(parents=True)
    (folder / "share/doc/chromium/copyright").write_text("BSD")
    return folder


def mapped(command: list[str | Path]) -> set[str]:
    shown = subprocess.run([*command, "-c", MAPS], capture_output=True, text=True, check=True, timeout=60)
    return {line.split(maxsplit=5)[5] for line in shown.stdout.splitlines() if line.count(" /") == 1}


@pytest.mark.parametrize("name", ["b", "browser-for-a-long-time-to-come-in-a-folder-whose-name-is-long"])
def test_the_browser_runs_from_any_folder_on_its_own_libraries(tree: Path, name: str) -> None:
    parent = Path(tempfile.mkdtemp(dir="/tmp"))
    folder = parent / name
    try:
        program = portable.write(tree, folder)
        shutil.rmtree(tree)
        assert program == folder / "chromium"
        found = mapped([program])
        assert str(folder / portable.CHROMIUM) in found
        assert str(folder / portable.LOADER) in found
        assert not [path for path in found if not path.startswith(f"{folder}/")]
    finally:
        shutil.rmtree(parent)


def test_texts_name_the_place_where_the_folder_will_be(tree: Path, tmp_path: Path) -> None:
    portable.write(tree, tmp_path / "new/browser", "/opt/browser")
    assert (tmp_path / "new/browser/browser/fonts.conf").read_text() == (
        "<dir>/opt/browser/browser/fonts</dir>"
    )
    assert (tmp_path / "new/browser/chromium").read_text().startswith("#!/opt/browser/libexec/dash\n")
    assert (tmp_path / "new/browser/share/doc/chromium/copyright").read_text() == "BSD"
    assert (tmp_path / "new/browser").stat().st_mode & 0o777 == 0o755


def test_a_folder_with_something_in_it_is_left_alone(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    portable.write(tree, folder, "/opt/b")
    (folder / "chromium").write_text("mine")
    with pytest.raises(UsageError, match="mine is not an empty folder"):
        portable.write(tree, folder, "/opt/b")
    assert (folder / "chromium").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "openhands"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/opt/my browser", "letters, digits"),
        ("relative", "must be absolute"),
        ("/opt/" + "x" * 120, "may have 111 characters, not 125"),
    ],
)
def test_a_path_that_cannot_work_is_refused_before_anything_is_written(
    tree: Path, tmp_path: Path, target: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        portable.write(tree, tmp_path / "b", target)
    assert not (tmp_path / "b").exists()


def test_a_bundle_without_the_browser_is_named(tree: Path, tmp_path: Path) -> None:
    (tree / portable.CHROMIUM).unlink()
    with pytest.raises(UsageError, match="has no browser"):
        portable.write(tree, tmp_path / "b", "/opt/b")
    assert not (tmp_path / "b").exists()

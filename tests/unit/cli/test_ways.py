"""Build folders, and the entry points that OpenHands' scripts know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from graftbox import runtime_build
from graftbox.cli import bases
from graftbox.cli.dockerfile import dockerfile
from graftbox.cli.image import image
from graftbox.cli.ways import Made, Wanted, requirements, server_files
from graftbox.errors import UnsupportedError, UsageError
from graftbox.image.graft import Bundle
from graftbox.store import Store, digest_of_file

pytestmark = pytest.mark.usefixtures("built")


def run(command: Any, *arguments: str) -> str:
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_build_folder_holds_all_that_a_builder_needs(tmp_path: Path, built: Bundle) -> None:
    folder = tmp_path / "context"
    made = json.loads(run(image, "build", "scratch", "--build-folder", str(folder), "--json"))
    assert (made["status"], made["method"]) == ("written", "copy")
    for number, layer in enumerate(built.layers):
        assert digest_of_file(folder / f"{number}-{layer.name}.tar.gz") == layer.digest
    assert "ADD 0-core.tar.gz /" in (folder / "Dockerfile").read_text()
    tags = json.loads((folder / "tags.json").read_bytes())
    assert made["image"] == f"graftbox-runtime:{tags['source']}"
    assert made["tags"] == [tags["source"], tags["lock"], tags["versioned"]]


def test_a_bundle_that_was_pushed_is_named_instead(tmp_path: Path) -> None:
    pushed = ["--bundle-image", "registry.example/bundle:1"]
    run(image, "build", "scratch", "--build-folder", str(tmp_path / "c"), *pushed)
    text = (tmp_path / "c/Dockerfile").read_text()
    assert "COPY --from=registry.example/bundle:1 /openhands /openhands" in text
    assert run(dockerfile, "scratch", *pushed).count("COPY --from=registry.example/bundle:1") == 1


def test_the_traditional_way_brings_server_commands_and_requirements(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    run(image, "build", "scratch", "--method", "install", "--build-folder", str(folder))
    assert (folder / "requirements.txt").read_bytes() == requirements()
    assert b"h11" in requirements()
    assert (folder / "openhands/code/graftbox/server/main.py").is_file()
    for name in ("bin/action-execution-server", "bin/oh-python", "micromamba/bin/micromamba"):
        script = folder / "openhands" / name
        assert script.stat().st_mode & 0o111
        assert "/openhands/libexec" not in script.read_text()
    assert not any("__pycache__" in name for name in server_files())


def test_extra_commands_change_the_tags_but_not_the_bundle(tmp_path: Path) -> None:
    def tags(*more: str) -> list[str]:
        written = run(image, "build", "scratch", "--json", "--build-folder", str(tmp_path / "c"), *more)
        found = json.loads(written)["tags"]
        assert isinstance(found, list)
        return found

    plain, extra = tags(), tags("--extra-deps", "apt-get install -y jq")
    assert plain[1] != extra[1]
    assert tags() == plain
    assert tags("--method", "install")[1] not in {plain[1], extra[1]}


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(UnsupportedError, match="--method copy"):
        run(image, "build", "scratch", "--extra-deps", "true")
    with pytest.raises(UsageError, match="docker load"):
        run(dockerfile, "oci:folder")


@pytest.mark.parametrize(
    ("method", "hint"),
    [("copy", "COPY --from=graftbox-bundle:"), ("install", "apt-get"), ("pyinstaller", "COPY openhands")],
)
def test_each_way_is_printed(method: str, hint: str) -> None:
    assert hint in run(dockerfile, "ubuntu:22.04", "--method", method)


def test_the_scripts_of_openhands_find_what_they_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "config.sh").write_text("DOCKER_BASE_DIR=.\n")
    monkeypatch.setenv("OH_RUNTIME_RUNTIME_IMAGE_REPO", "registry.example/runtime")
    arguments = ["--base_image", "scratch", "--build_folder", str(folder), "--no_enable_browser"]
    assert runtime_build.main(arguments) == 0
    name = capsys.readouterr().out.strip()
    repository, _, tag = name.partition(":")
    assert repository == "registry.example/runtime"
    lines = (folder / "config.sh").read_text().splitlines()
    assert lines[0] == "DOCKER_BASE_DIR=."
    assert f"DOCKER_IMAGE_SOURCE_TAG={tag}" in lines
    assert any(line.startswith("DOCKER_IMAGE_TAG=oh_v") for line in lines)


def test_both_entry_points_explain_themselves_and_their_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("runtime_build", "runtime_build_pyinstaller"):
        command = [sys.executable, "-m", f"graftbox.{module}", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"python -m graftbox.{module}" in done.stdout
        assert "--base_image" in done.stdout
    assert runtime_build.main(["--base-image", "Ubuntu"]) == 2
    assert runtime_build.main(["--base-image", "scratch", "--extra-deps", "true", "--method", "graft"]) == 1
    assert "--method copy" in capsys.readouterr().err


def test_a_binary_is_copied_with_its_links_and_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "tree"
    (top / "openhands/code/server").mkdir(parents=True)
    (top / "openhands/bin").mkdir()
    program = top / "openhands/code/server/action-execution-server"
    program.write_text("ELF")
    program.chmod(0o755)
    (top / "openhands/code/server/data").write_text("of the program")
    (top / "openhands/bin/action-execution-server").symlink_to("../code/server/action-execution-server")
    monkeypatch.setattr(bases, "bundle_tree", lambda components, store, flavor: top)
    folder = tmp_path / "context"
    for _ in range(2):  # a folder that we have written is written again
        run(image, "build", "scratch", "--method", "pyinstaller", "--build-folder", str(folder))
    assert "COPY openhands /openhands" in (folder / "Dockerfile").read_text()
    link = folder / "openhands/bin/action-execution-server"
    assert link.is_symlink()
    assert link.read_text() == "ELF"
    assert link.stat().st_mode & 0o111
    assert not (folder / "openhands/code/server/data").stat().st_mode & 0o111


def test_the_script_for_binaries_makes_one_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def make(wanted: Wanted, store: Store) -> Made:
        asked.append(wanted.method)
        return Made("image", "made", wanted.method, ())

    monkeypatch.setattr(runtime_build, "make", make)
    assert runtime_build.main(["--base-image", "scratch"]) == 0
    assert runtime_build.main(["--base-image", "scratch"], method="pyinstaller") == 0
    assert asked == ["graft", "pyinstaller"]

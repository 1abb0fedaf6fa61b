"""The bundle for arm64, run on this machine by an emulator: its programs, libraries and native modules.

The emulator runs one program, not those that it starts: no shell of the server, no other process of Chromium.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.integration.conftest import program

from graftbox.bundle.build import build
from graftbox.bundle.lock import Lock
from graftbox.bundle.manifest import BundleManifest
from graftbox.bundle.native import architecture
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sbom import sbom
from graftbox.bundle.tools import bubblewrap
from graftbox.bundle.tree import unpacked
from graftbox.store import Store

PYTHON = ("/openhands/libexec/python3.13", "-IBXutf8")
MODULES = "/openhands/.openvscode-server/node_modules"
IMPORTS = """
import importlib, pathlib, sys
failed, count = {}, 0
for folder in ("lib-dynload", "dist-packages"):
    top = pathlib.Path("/openhands/lib/python3.13", folder)
    for path in sorted(top.rglob("*.so")):
        if not path.name.split(".")[0].isidentifier():
            continue
        name = ".".join([*path.parent.relative_to(top).parts, path.name.split(".")[0]])
        try:
            importlib.import_module(name)
        except ImportError as error:
            failed[name] = str(error)
        count += 1
mapped = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(count > 35 or count, failed, [path for path in mapped if not path.startswith("/openhands/")])
"""
# Ten seconds or more each where an emulator runs them.
PACKAGES = "import IPython, ipykernel, mcp.server, playwright.async_api, markdownify; print('imported')"
PAGE = "data:text/html,<p id=a>x<script>a.textContent=6*7</script>"
LONG = pytest.mark.skipif(
    os.environ.get("GRAFTBOX_LONG_TESTS") != "1", reason="takes minutes; set GRAFTBOX_LONG_TESTS=1"
)


@pytest.fixture(scope="module")
def made() -> BundleManifest:
    if architecture() == "arm64":
        pytest.skip("missing on this machine: another architecture than arm64")
    return build(arch="arm64", store=Store())


@pytest.fixture(scope="module")
def tree(made: BundleManifest) -> Path:
    return unpacked(made, Store()) / "openhands"


def emulated(tree: Path, *command: str, options: Sequence[str] = ()) -> list[str]:
    """A command of the bundle in a root with nothing else."""
    emulator = program("qemu-aarch64-static", "qemu-user-static")
    return [
        *(*bubblewrap(Store()), "--unshare-pid", "--die-with-parent", "--ro-bind", str(tree), "/openhands"),
        *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/tmp", "--clearenv"),
        *("--setenv", "HOME", "/tmp", "--ro-bind", emulator, "/qemu", *options, "/qemu", *command),
    ]


def run(tree: Path, *command: str) -> str:
    done = subprocess.run(emulated(tree, *command), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_bill_of_materials_names_nothing_of_another_architecture(made: BundleManifest) -> None:
    document = json.loads(sbom(made, Lock.of(Recipe.builtin()), Store()))
    packages = [one["purl"] for one in document["components"] if one["purl"].startswith("pkg:deb/")]
    found = {purl.rpartition("arch=")[2].partition("&")[0] for purl in packages}
    assert found - {"all"} == {"arm64"}


def test_python_imports_every_extension_module_from_the_bundle_alone(tree: Path) -> None:
    assert run(tree, *PYTHON, "-c", IMPORTS) == "True {} []\n"


def test_node_runs_and_loads_the_native_modules_of_vs_code(tree: Path) -> None:
    natives = sorted(
        str(path.relative_to(tree / ".openvscode-server/node_modules"))
        for path in (tree / ".openvscode-server/node_modules").rglob("*.node")
    )
    assert len(natives) == 4
    script = f"""
for (const name of {[*natives, "node-pty", "@parcel/watcher", "@vscode/spdlog"]})
    require("{MODULES}/" + name);
console.log(process.arch, 6 * 7, new Intl.NumberFormat("de").format(1234.5));
"""
    assert run(tree, "/openhands/libexec/node", "-e", script) == "arm64 42 1.234,5\n"


def test_chromium_starts(tree: Path) -> None:
    assert run(tree, "/openhands/browser/chromium-headless-shell", "--version").startswith("Chromium ")


@LONG
def test_python_imports_its_large_packages(tree: Path) -> None:
    assert run(tree, *PYTHON, "-c", PACKAGES) == "imported\n"


@LONG
def test_chromium_draws_a_page_and_runs_its_script(tree: Path) -> None:
    # One process, and no machine code made while it runs, which the emulator is slow at.
    options = ["--no-sandbox", "--single-process", "--no-zygote", "--disable-gpu", "--in-process-gpu"]
    options += ["--disable-dev-shm-usage", "--js-flags=--jitless", "--timeout=550000"]
    command = ["/openhands/browser/chromium-headless-shell", *options, "--user-data-dir=/tmp/d", "--dump-dom"]
    assert '<p id="a">42</p>' in run(tree, *command, PAGE)

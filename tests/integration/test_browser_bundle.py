"""The bundle's Chromium and Node on any base, and the browser alone in a folder of its own."""

from __future__ import annotations

import json
import shlex
import struct
import subprocess
from pathlib import Path

import pytest
from tests.integration.conftest import program
from tests.integration.test_base_matrix import MODES, graftbox, sandbox

from graftbox.sandbox.client import Client

GUEST = Path(__file__).with_name("guest_browser.py").read_text()
PNG = b"\x89PNG\r\n\x1a\n"


def check_pictures(client: Client, browser: str, prefix: str) -> None:
    """The text of a page is to be seen, in a font that has wide and narrow letters."""
    command = f"/openhands/bin/oh-python - {shlex.join([browser, prefix])} <<'END'\n{GUEST}\nEND"
    outcome = client.run(command)
    assert outcome.exit_code == 0, outcome
    found = json.loads(outcome.output.splitlines()[-1])
    nothing, narrow, wide = found["dark"]
    assert nothing == 0
    assert 100 < narrow < wide / 2
    assert int(found["version"].partition(".")[0]) > 100
    assert found["foreign"] == []


# Every base is there in test_shows; these differ in kind.
@pytest.mark.parametrize("base", ["scratch", "musl", "bullseye", "hostile"])
def test_a_locked_down_sandbox_on_any_base_photographs_a_page(base: str) -> None:
    with sandbox(base, "--engine", "embedded", *MODES["locked-down"].split()) as client:
        check_pictures(client, "/openhands/bin/oh-chromium", "/openhands")


def test_variables_that_break_a_browser_reach_neither_chromium_nor_node() -> None:
    hostile = {
        "FONTCONFIG_FILE": "/hostile/fonts.conf",
        "FONTCONFIG_PATH": "/hostile",
        "XDG_CONFIG_HOME": "/hostile",
        "XDG_DATA_DIRS": "/hostile",
        "VK_ICD_FILENAMES": "/hostile/icd.json",
        "GIO_EXTRA_MODULES": "/hostile",
        "NODE_OPTIONS": "--require=/hostile/none.js",
        "NODE_PATH": "/hostile",
        "NODE_ICU_DATA": "/hostile",
        "NODE_EXTRA_CA_CERTS": "/hostile/none.pem",
        "OPENSSL_CONF": "/hostile/openssl.cnf",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/hostile/bus",
        "DISPLAY": ":7",
    }
    options = [word for name, value in hostile.items() for word in ("--env", f"{name}={value}")]
    with sandbox("hostile", "--engine", "embedded", *options) as client:
        check_pictures(client, "/openhands/bin/oh-chromium", "/openhands")
        # Node itself obeys none, and what it starts still gets all of them.
        outcome = client.run("/openhands/bin/oh-node -p 'JSON.stringify(process.env)'")
        assert outcome.exit_code == 0, outcome
        seen = json.loads(outcome.output.splitlines()[-1])
        assert {name: seen.get(name) for name in hostile} == hostile


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a portable browser."""
    folder = tmp_path_factory.mktemp("portable") / "a-folder-of-its-own"
    written = json.loads(graftbox("package-browser", "--json", str(folder)).stdout)
    assert written == {"executable_path": f"{folder}/chromium"}
    return folder


def test_the_portable_browser_needs_nothing_but_its_folder(portable: Path, tmp_path: Path) -> None:
    page = "data:text/html,<title>t</title><p style='font-size:60px'>A page with text"
    command: list[str | Path] = [program("bwrap", "bubblewrap"), "--unshare-all"]
    command += ["--ro-bind", portable, portable]
    command += ["--proc", "/proc", "--dev", "/dev", "--bind", tmp_path, "/out", "--clearenv"]
    command += ["--setenv", "LD_LIBRARY_PATH", "/none", portable / "chromium", "--no-sandbox"]
    options = ["--window-size=600,200", "--screenshot=/out/page.png", page]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    png = (tmp_path / "page.png").read_bytes()
    assert png.startswith(PNG), done.stderr
    assert struct.unpack(">II", png[16:24]) == (600, 200)
    assert len(png) > 3000, "the picture is blank"
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=60)
    assert "A page with text</p>" in done.stdout, done.stderr


def test_the_portable_browser_is_what_playwright_starts_on_a_musl_base(portable: Path) -> None:
    options = ["--engine", "embedded", "--volume", f"{portable}:{portable}:ro"]
    with sandbox("musl", *options) as client:
        check_pictures(client, f"{portable}/chromium", str(portable))


def test_a_folder_that_is_not_empty_is_left_alone(portable: Path) -> None:
    done = graftbox("package-browser", str(portable), check=False)
    assert done.returncode == 2
    assert f"{portable} is not an empty folder" in done.stderr

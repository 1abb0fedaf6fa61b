"""The bundle's Chromium driven from outside, by Playwright for Python and by puppeteer-core from npm."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.bases import reference
from tests.integration.conftest import program
from tests.integration.test_base_matrix import graftbox

from graftbox.sandbox.client import Client

HERE = Path(__file__).parent / "browser_clients"
SITE = """{
mkdir -p /tmp/site && cd /tmp/site
cat > index.html <<'END'
<!doctype html><title>Site</title><input id=name><p id=greeting></p>
<button onclick="greeting.textContent = 'Hello ' + document.querySelector('#name').value">Go</button>
<iframe src="http://localhost:8099/inner.html"></iframe>
END
echo '<body>inner text' > inner.html
/openhands/bin/oh-python -m http.server --bind 127.0.0.1 8099 >/dev/null 2>&1 &
}"""


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, str]]:
    """A sandbox on a base with nothing but a shell, a site inside of it, and where its server is."""
    options = ("--detach", "--json", "--engine", "embedded")
    found = json.loads(graftbox("run", *options, reference("busybox")).stdout)
    try:
        with Client(found["url"], found["key"]) as client:
            assert client.run(SITE).exit_code == 0
        yield found
    finally:
        graftbox("rm", "-f", found["name"])


@pytest.fixture(scope="module")
def puppeteer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that needs it, beside an installation of it."""
    folder = tmp_path_factory.mktemp("puppeteer")
    for name in ("package.json", "package-lock.json", "drive.mjs"):
        shutil.copy(HERE / name, folder)
    command = [program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "drive.mjs"


def driven(*command: str) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: Any) -> None:
    assert found["greeting"] == "Hello Ada"
    assert found["inner"] == "inner text"
    assert found["dialog"] == "yes"
    assert found["popup"] == "about:blank"
    assert found["picture"] > 1000


@pytest.mark.parametrize("path", ["/v1/browser", "/v1/browser/cdp"], ids=["http", "websocket"])
def test_playwright_for_python_drives_the_browser(started: dict[str, str], path: str) -> None:
    url = started["url"] + path
    if path.endswith("cdp"):
        url = url.replace("http:", "ws:")
    check(driven(sys.executable, str(HERE / "drive.py"), url, started["key"], "http://127.0.0.1:8099/"))


def test_puppeteer_drives_the_browser(started: dict[str, str], puppeteer: Path) -> None:
    url = started["url"].replace("http:", "ws:") + "/v1/browser/cdp"
    check(driven(program("node"), str(puppeteer), url, started["key"], "http://127.0.0.1:8099/"))

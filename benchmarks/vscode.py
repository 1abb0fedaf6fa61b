"""VS Code: how soon its server answers, and how soon its workbench shows the folder's files.

The page is loaded by a Chromium of this machine, with nothing in its cache. python -m benchmarks.vscode
measures these alone.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright
from tests.integration.conftest import free_port

from benchmarks.measure import Figure, table
from graftbox.bundle import build, tree
from graftbox.store import Store

STARTS = 5
SHIM = "/openhands/.openvscode-server/bin/openvscode-server"


def figures(unpacked: Path) -> list[Figure]:
    """``unpacked`` holds the tree ``openhands/`` with the component vscode."""
    answers, usable = zip(*(_start(unpacked) for _ in range(STARTS + 1)), strict=True)
    return [
        Figure("VS Code's start to its first page (HTTP 200)", "s", answers[1:], 1),
        Figure("opening that page to the workbench with the folder's files", "s", usable[1:], 4),
    ]


def _start(unpacked: Path) -> tuple[float, float]:
    """Seconds from the start to the first answer, and from opening the page to its workbench."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        Path(folder, "notes.txt").write_text("notes\n")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell"), args=["--no-sandbox"]
        )
        start = time.perf_counter()
        with _running(unpacked, folder) as address:
            _until_answered(address)
            answered = time.perf_counter()
            page = browser.new_page()
            page.goto(f"{address}/?folder={folder}", wait_until="commit")
            page.wait_for_selector(".explorer-folders-view :text('notes.txt')", timeout=60_000)
            usable = time.perf_counter()
        browser.close()
    return answered - start, usable - answered


@contextlib.contextmanager
def _running(unpacked: Path, folder: str) -> Iterator[str]:
    port = free_port()
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(unpacked / "openhands"), "/openhands"]
    command += ["--proc", "/proc", "--die-with-parent", "--unshare-pid", SHIM, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--without-connection-token", "--server-data-dir", f"{folder}/.data"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _until_answered(address: str) -> None:
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                assert response.status == 200
                return
        except urllib.error.URLError:
            time.sleep(0.005)


def main() -> None:
    manifest = build.current()
    assert manifest is not None, "build the bundle first"
    print(table("VS Code", figures(tree.unpacked(manifest, Store()))))


if __name__ == "__main__":
    main()

"""VS Code as the bundle has it, started by openvscode-server's command line: on nothing but the bundle."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_UNIX, socket

import psutil
import pytest
from playwright.sync_api import Page, sync_playwright
from tests.integration.conftest import free_port, program
from tests.integration.test_base_matrix import graftbox

from graftbox.bundle import native_modules, plan
from graftbox.bundle.build import Job
from graftbox.store import Store

SHIM = "/openhands/.openvscode-server/bin/openvscode-server"
TOKEN = "a-token"
HOSTILE = {
    "NODE_OPTIONS": "--require=/hostile/none.js",
    "NODE_PATH": "/hostile",
    "LD_PRELOAD": "/hostile/none.so",
    "LD_LIBRARY_PATH": "/hostile",
    "OPENSSL_CONF": "/hostile/openssl.cnf",
    "LANG": "de_DE@euro",
}
OWN = {"PWD", "OLDPWD", "SHLVL", "_"}
"""What every bash exports to its children."""
VSCODES = {"BROWSER", "COLORTERM", "GIT_ASKPASS", "PATH", "TERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION"}
"""What VS Code itself gives to its terminals, besides names that begin with VSCODE_.

Git's comes with its extension, which a terminal may be older than."""


@pytest.fixture(scope="module")
def tree() -> Path:
    return Path(graftbox("bundle", "path", "--component", "vscode").stdout.strip())


@dataclass
class Editor:
    """A running VS Code; ``work`` is /work inside."""

    process: subprocess.Popen[bytes]
    work: Path
    log: Path


@contextlib.contextmanager
def running(
    tree: Path, folder: Path, options: list[str], vscode: list[str], env: Mapping[str, str] = {}
) -> Iterator[Editor]:
    """VS Code in a root that holds the bundle, /dev, /proc, an empty /work and what ``options`` add."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    work.chmod(0o777)
    command = [program("bwrap", "bubblewrap"), "--die-with-parent", "--unshare-user", "--unshare-ipc"]
    command += ["--ro-bind", str(tree), "/openhands", "--dev", "/dev", "--proc", "/proc"]
    command += ["--bind", str(work), "/work", *options, "--remount-ro", "/", "--clearenv"]
    command += [word for name, value in env.items() for word in ("--setenv", name, value)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, SHIM, *vscode], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Editor(process, work, log)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def until(what: str, log: Path, ready: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]  # any function that says whether
        assert time.monotonic() < deadline, f"{what} did not happen; the log:\n{log.read_text()[-3000:]}"
        time.sleep(0.05)


def status(path: Path, url: str) -> int:
    """The status of an answer over a Unix socket; 0 before anything listens there."""
    connection = HTTPConnection("vscode", timeout=10)
    connection.sock = socket(AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", url)
        return connection.getresponse().status
    except (FileNotFoundError, ConnectionError):
        return 0
    finally:
        connection.close()


def test_openhands_command_line_serves_only_who_has_the_token(tree: Path, tmp_path: Path) -> None:
    port = free_port()
    line = [
        "--host",
        "0.0.0.0",
        "--connection-token",
        TOKEN,
        "--port",
        str(port),
        "--disable-workspace-trust",
    ]

    def answer(query: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{query}", timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    with running(tree, tmp_path, ["--tmpfs", "/tmp"], line) as editor:
        until("an answer", editor.log, lambda: answer("") == 403)
        assert answer(f"?tkn={TOKEN}x") == 403
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"http://127.0.0.1:{port}/?tkn={TOKEN}", timeout=10) as response:
            assert b"vscode-workbench-web-configuration" in response.read()


@pytest.mark.parametrize(
    ("options", "env", "data"),
    [
        pytest.param(["--tmpfs", "/tmp", "--uid", "12345"], {}, "/tmp", id="unknown uid, HOME unset"),
        pytest.param(["--uid", "12345"], {}, "/dev/shm", id="no /tmp"),
        pytest.param(
            ["--uid", "12345", "--chdir", "/work"], {"HOME": "/"}, "/dev/shm", id="HOME not writable"
        ),
        pytest.param(["--uid", "0"], {"HOME": "/work"}, "/work", id="HOME writable"),
        pytest.param(["--unshare-net", "--tmpfs", "/tmp"], HOSTILE, "/tmp", id="hostile, no network"),
    ],
)
def test_it_starts_wherever_something_can_be_written(
    tree: Path, tmp_path: Path, options: list[str], env: dict[str, str], data: str
) -> None:
    line = ["--socket-path", "/work/s", "--without-connection-token"]
    with running(tree, tmp_path, options, line, env) as editor:
        until("an answer", editor.log, lambda: status(editor.work / "s", "/") == 200)
        folder = f"{data}/.openvscode-server" if data == "/work" else f"{data}/openvscode-server-"
        assert f"file://{folder}" in editor.log.read_text()
        assert "Cannot find" not in editor.log.read_text(), "something was left out that it needs"


def test_without_any_writable_folder_it_says_what_to_do(tree: Path, tmp_path: Path) -> None:
    options = ["--remount-ro", "/dev", "--remount-ro", "/work"]
    with running(tree, tmp_path, options, ["--without-connection-token"]) as editor:
        assert editor.process.wait(timeout=60) == 1
        assert "Name one by --server-data-dir" in editor.log.read_text()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium-headless-shell"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_files_extensions_and_terminals_work_on_an_empty_base(tree: Path, tmp_path: Path, page: Page) -> None:
    port = free_port()
    line = ["--host", "127.0.0.1", "--port", str(port), "--connection-token", TOKEN]
    options = ["--tmpfs", "/tmp", "--uid", "12345"]
    with running(tree, tmp_path, options, line, HOSTILE) as editor:
        (editor.work / "notes.json").write_text('{"opened": "in the editor",}\n')
        until("listening", editor.log, lambda: "agent listening on" in editor.log.read_text())
        page.goto(f"http://127.0.0.1:{port}/?tkn={TOKEN}&folder=/work")
        page.get_by_text("notes.json").first.dblclick()
        page.wait_for_selector(".view-line:has-text('in the editor')")
        page.keyboard.press("Control+`")
        page.wait_for_selector(".terminal-wrapper.active .xterm-screen")
        command = "export -p > /work/environ; echo $((6 * 7)) > /work/typed\n"
        until("the command", editor.log, lambda: entered(page, command, editor.work / "typed"))
        assert (editor.work / "typed").read_text() == "42\n"
        check_environment((editor.work / "environ").read_text())
        # The language server for JSON is an extension with a process of its own; so is git's.
        page.wait_for_selector(".squiggly-error")
        until("git", editor.log, lambda: git_log(editor) != "")
        logs = list(Path(f"/proc/{server(editor).pid}/root/tmp").glob("openvscode-server-12345/data/logs/*"))
        assert any(path.stat().st_size for log in logs for path in log.rglob("*.log")), "no log is written"
        check_kill(editor)


def entered(page: Page, command: str, result: Path) -> bool:
    """Types a command; what is typed while a terminal is still being opened may end up elsewhere."""
    page.click(".terminal-wrapper.active .xterm-screen")
    page.keyboard.type(command)
    deadline = time.monotonic() + 5
    while not result.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return result.exists()


def check_environment(text: str) -> None:
    """The terminal has the container's variables, and of others only those that VS Code is known for."""
    lines = [line.removeprefix("declare -x ").partition("=") for line in text.splitlines()]
    found = {name: json.loads(value) if value else "" for name, _, value in lines}
    assert {name: found.get(name) for name in HOSTILE} == HOSTILE
    more = {name for name in found if not name.startswith("VSCODE_")} - HOSTILE.keys() - OWN
    assert more <= VSCODES


def server(editor: Editor) -> psutil.Process:
    """VS Code's first process: the only child of bubblewrap."""
    return psutil.Process(editor.process.pid).children()[0]


def git_log(editor: Editor) -> str:
    folder = Path(f"/proc/{server(editor).pid}/root/tmp/openvscode-server-12345/data/logs")
    return "".join(path.read_text() for path in folder.rglob("Git.log"))


def check_kill(editor: Editor) -> None:
    """All processes end when the first one is killed, with nobody else's help."""
    first = server(editor)
    family = first.children(recursive=True)
    assert len(family) >= 3, "extensions, terminals and watchers have processes of their own"
    first.kill()
    _gone, alive = psutil.wait_procs(family, timeout=60)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_native_modules_are_the_same_bytes_wherever_and_whenever_they_are_compiled(tmp_path: Path) -> None:
    # The cross compilation; both are the same compiler with another target.
    arch, machine = "arm64", 183
    job = Job.of(arch=arch, components=["vscode"])
    table = plan.parse(job.recipe.component("vscode").stage or {}, arch).native
    assert table is not None
    # The one that takes a second, because it needs no C++ library.
    small = [module for module in table.modules if module.place.endswith("native-watchdog")]
    chosen = native_modules.NativePlan(table.wheel, table.headers, tuple(small))
    entries = [e for e in job.lock.entries(arch) if e.name in {table.wheel, "@vscode/native-watchdog"}]
    from graftbox.bundle.fetch import fetch
    from graftbox.bundle.sources import Sources

    paths = fetch(entries, Store(), Sources.find())
    found = []
    for attempt in ("a", "a-longer-folder"):
        store = Store(tmp_path / arch / attempt)
        store.folder()
        for kept in ("blobs", "programs"):
            (store.root / kept).symlink_to(Store().folder(kept))
        (file,) = native_modules.compiled(chosen, paths, arch, store).values()
        found.append(file.data)
    assert found[0] == found[1]
    assert found[0][:4] == b"\x7fELF"
    assert found[0][18] == machine
    assert os.fsencode(tmp_path) not in found[0]

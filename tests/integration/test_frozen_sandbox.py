"""Inside a sandbox of the flavour pyinstaller: others' plugins, other Pythons, what is killed, what leaks."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.integration.bases import BASES, WORKSHOP
from tests.integration.test_base_matrix import LOCKED_DOWN, sandbox
from tests.integration.test_kernels import cell
from tests.integration.test_plugin_bases import MANIFEST, PROGRAM, get
from tests.integration.test_shows import PAGE, act, browse, check_others, site

from graftbox.errors import TransportError
from graftbox.sandbox.client import Client

EXAMPLE = Path(__file__).parents[2] / "examples/plugin-clock"
EMBEDDED = ("--flavor", "pyinstaller", "--engine", "embedded")
PATIENCE = 60.0
SERVER = """
for each in /proc/[0-9]*; do
  IFS= read -rd "" word 2>/dev/null <"$each/cmdline" || continue
  [ "${word##*/}" = action-execution-server ] && [ $each != /proc/1 ] && echo ${each#/proc/}
done
"""
"""Prints the number of the server's process, whose parent is process 1."""


def until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(client: Client, name: str) -> dict[str, str]:
    """Starts a plugin: a first request would wait for it too, but for 10 seconds only."""
    started: dict[str, str] = client._request("POST", f"/v1/plugins/{name}/start?wait=50", timeout=90).json()
    assert started["state"] == "running", started
    return started


def server(client: Client) -> str:
    try:
        return client.run(SERVER, 10).output
    except TransportError:
        return ""


def group(client: Client, leader: int) -> set[str]:
    """The processes of a process group."""
    code = (
        "import glob\nfor name in glob.glob('/proc/[0-9]*/stat'):\n try: words = open(name).read()\n"
        f" except OSError: continue\n if words.rpartition(')')[2].split()[2] == '{leader}': print(name)"
    )
    return {name.split("/")[2] for name in client.run(f'/openhands/bin/oh-python -c "{code}"').output.split()}


def there(client: Client, pids: set[str]) -> list[str]:
    """Those of the processes that are still there, were it as zombies."""
    words = " ".join(f"/proc/{pid}" for pid in sorted(pids))
    return client.run(f"for each in {words}; do [ -e $each ] && echo $each; done; true").output.split()


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a manifest, and a distribution that brings two more, as pip puts it there."""
    folder = tmp_path_factory.mktemp("frozen") / "plugins"
    (folder / "page").mkdir(parents=True)
    (folder / "page/plugin.toml").write_text(MANIFEST)
    (folder / "page/page.py").write_text(PROGRAM)
    shutil.copytree(EXAMPLE, folder.with_name("example"))
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *offline]
    target = ("--target", str(folder / "site-packages"), str(folder.with_name("example")))
    subprocess.run([*pip, *target], check=True)
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    return folder


@pytest.mark.parametrize("base", ["scratch", "hostile"])
def test_plugins_of_others_are_folders_and_distributions(base: str, plugins: Path) -> None:
    mounted = ("-v", f"{plugins}:/plugins:ro", "-e", "GRAFTBOX_PLUGINS=/plugins")
    with sandbox(base, *EMBEDDED, *LOCKED_DOWN.split(), *mounted) as client:
        start(client, "page")
        assert get(client, "/v1/proxy/page/some/path")["path"] == "/some/path"
        assert cell(client, "PAGE") == "'known to the kernel'"
        for name in ("clock", "chimes"):
            assert start(client, name)["source"] == "entry point of graftbox_plugin_clock-1.0"
        assert len(client._request("GET", "/v1/proxy/clock/").text.strip().split(":")) == 3


def test_a_kernel_runs_on_the_bases_own_python_beside_the_binary() -> None:
    options = (*EMBEDDED, *LOCKED_DOWN.split(), "-e", "GRAFTBOX_KERNEL_PYTHON=python3")
    with sandbox(WORKSHOP.name, *options) as client:
        seen = cell(client, "import os, sys; os.getpid(), sys.executable, sys.version_info[:2]")
        assert seen.endswith(", '/usr/bin/python3', (3, 11))")
        check_others(client, WORKSHOP, seen.strip("(").partition(",")[0])
        assert cell(client, "!python3 --version").startswith("Python 3.11")
        assert cell(client, "1 / 0").endswith("ZeroDivisionError: division by zero")
        assert "Execution timed out" in cell(client, "import time; time.sleep(60)", 0.5)
        assert "was killed" in cell(client, "os.kill(os.getpid(), 9)")
        assert cell(client, "6 * 7") == "42"


def test_nothing_of_the_binary_reaches_what_a_user_starts(tmp_path: Path) -> None:
    (tmp_path / "idle").mkdir()
    manifest = {"name": "idle", "start": ["sh", "-c", "echo $$ > /tmp/plugin; exec sleep 1000"]}
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in manifest.items())
    (tmp_path / "idle/plugin.toml").write_text("".join(lines))
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    mounted = ("-v", f"{tmp_path}:/plugins:ro", "-e", "GRAFTBOX_PLUGINS=/plugins")
    with sandbox("hostile", *EMBEDDED, *mounted) as client:
        base = BASES["hostile"]
        pids = {"in the shell": client.run("sleep 1000 & echo $!").output.splitlines()[-1]}
        answer = client._request("POST", "/v1/run", {"command": "sleep 1000 & echo $!"}).json()
        pids["a command"] = answer["stdout"].strip()
        code = "import subprocess; subprocess.Popen(['sleep', '1000']).pid"
        pids["from a cell"] = cell(client, code)
        start(client, "idle")
        until(lambda: client.run("[ -s /tmp/plugin ] && echo yes").output)
        pids["a plugin"] = client.run("echo $(< /tmp/plugin)").output
        for pid in pids.values():
            check_others(client, base, pid)


def test_what_is_killed_is_told_of_and_the_next_action_works() -> None:
    """The kernel, Chromium and the server itself, each in the middle of something."""
    with (
        sandbox("hostile", *EMBEDDED) as client,
        site(client, PAGE) as address,
        ThreadPoolExecutor() as pool,
    ):
        kernel = cell(client, "import os; os.getpid()")
        code = "open('/tmp/at-work', 'w').close()\nimport time; time.sleep(1000)"
        waiting = pool.submit(cell, client, code)
        until(lambda: client.run("[ -e /tmp/at-work ] && echo yes").output)
        client.run(f"kill -9 {kernel}")
        assert "was killed by signal 9 (SIGKILL)" in waiting.result()
        assert cell(client, "6 * 7") == "42"

        browse(client, f'goto("{address}")')
        chromium = get(client, "/v1/browser")
        family = {kernel, *group(client, chromium["pid"])}
        assert len(family) > 3
        actions = f'goto("{address}?at-work")\nnoop(50000)'
        browsing = pool.submit(act, client, "browse_interactive", browser_actions=actions)
        page = f"/v1/browser/pages/{chromium['pages'][0]['id']}"
        until(lambda: "at-work" in get(client, page)["url"])
        client.run(f"kill -9 {chromium['pid']}")
        assert "Chromium was killed by signal 9 (SIGKILL)" in browsing.result()["content"]
        assert "Nobody yet" in browse(client, f'goto("{address}")')["content"]
        until(lambda: not there(client, family))

        family = {cell(client, "import os; os.getpid()"), *group(client, get(client, "/v1/browser")["pid"])}
        assert client.run("left=over; cd /tmp; echo ready").output == "ready"
        old = client.run(SERVER).output
        family.add(old)
        with contextlib.suppress(TransportError):
            client.run(f"kill -9 {old}", 10)
        until(lambda: server(client) not in ("", old))
        assert client.run("echo $left; pwd").output == "over\n/tmp"
        assert cell(client, "6 * 7").endswith("42")
        browse(client, f'goto("{address}")')
        until(lambda: not there(client, family))

"""The bundle for arm64, run on this machine by an emulator of its programs: all but Chromium's pages.

With ``GRAFTBOX_LONG_TESTS=1`` it runs in an emulated machine too, the pages included.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from tests.integration.conftest import program, started
from tests.integration.emulation import KEY, machine, need_registration, registered
from tests.integration.test_kernels import cell
from tests.integration.test_shows import text_in

from graftbox.bundle.build import build
from graftbox.bundle.lock import Lock
from graftbox.bundle.manifest import BundleManifest
from graftbox.bundle.native import architecture
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sbom import sbom
from graftbox.bundle.tools import bubblewrap
from graftbox.bundle.tree import unpacked
from graftbox.errors import TransportError
from graftbox.sandbox.client import Client
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
COMMANDS = r"""
git=/openhands/bin/oh-git rg=/openhands/bin/oh-rg; cd /tmp && $git init -q tried && cd tried &&
echo $HOSTTYPE > a && $git add a &&
$git -c user.name=n -c user.email=n@example.org commit -qm first && $rg -c aarch64 &&
$rg -aq 'libexec/[t]mux' /proc/[0-9]*/cmdline && echo tmux; (exit 7)
"""
PAGE = """<!DOCTYPE html><title>t</title><p id=a style="font: 60px sans-serif">x
<script>a.textContent = `Seven times six is ${6*7}`</script>"""
PATIENCE = 600
"""Seconds for one thing; an emulator takes 1 to 30 for it, a busy machine ten times as long."""
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


def in_root(tree: Path, *command: str, options: Sequence[str] = ()) -> list[str]:
    """A command in a root with nothing but the bundle."""
    return [
        *(*bubblewrap(Store()), "--unshare-pid", "--die-with-parent", "--ro-bind", str(tree), "/openhands"),
        *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/tmp", "--clearenv"),
        *("--setenv", "HOME", "/tmp", *options, *command),
    ]


def run(tree: Path, *command: str) -> str:
    """The output of one program, which starts no others."""
    emulator = program("qemu-aarch64-static", "qemu-user-static")
    emulated = in_root(tree, "/qemu", *command, options=["--ro-bind", emulator, "/qemu"])
    done = subprocess.run(emulated, capture_output=True, text=True, timeout=600)
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


@pytest.fixture(scope="module")
def server(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The bundle's server, whose programs this machine's kernel gives to the emulator."""
    need_registration()
    folder = tmp_path_factory.mktemp("arm64")
    options = ["--unshare-net", "--bind", str(folder), "/run", "--dir", "/work"]
    options += ["--setenv", "SESSION_API_KEY", KEY, "--setenv", "GRAFTBOX_SOCKET", "/run/socket"]
    program_and_words = ["/openhands/bin/action-execution-server", "--working-dir", "/work"]
    command = registered(*in_root(tree, *program_and_words, options=options))
    with (
        Client(f"unix://{folder}/socket", KEY) as client,
        started(command, folder / "log", client.alive, PATIENCE),
    ):
        yield client


def check_shell(client: Client) -> None:
    outcome = client.run(COMMANDS.strip(), timeout=PATIENCE)
    assert (outcome.output, outcome.exit_code, outcome.working_dir) == ("a:1\ntmux", 7, "/tmp/tried")


def check_kernel(client: Client) -> None:
    assert cell(client, "import platform; print(platform.machine(), 6 * 7)", PATIENCE) == "aarch64 42"


def check_mcp(client: Client) -> None:
    socket = client.url.removeprefix("unix://") if client.url.startswith("unix:") else None
    address = "http://sandbox" if socket else client.url

    async def connected() -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        transport = httpx2.AsyncHTTPTransport(uds=socket, verify=False)
        async with (
            httpx2.AsyncClient(headers=headers, timeout=PATIENCE, transport=transport) as http_client,
            McpClient(streamable_http_client(f"{address}/mcp", http_client=http_client)) as mcp,
        ):
            names = {tool.name for tool in (await mcp.list_tools()).tools}
            assert names >= {"shell", "python", "read", "write", "edit", "grep", "browse"}
            result = await mcp.call_tool("shell", {"command": "echo $HOSTTYPE"})
            assert result.structured_content is not None
            assert result.structured_content["output"] == "aarch64"

    asyncio.run(connected())


def check_vscode(client: Client) -> None:
    """Its page comes as soon as it has started; until then the answer is 503."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            page = client._request("GET", "/v1/proxy/vscode/", timeout=PATIENCE)
            break
        except TransportError as error:
            if "is being started" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    assert page.status_code == 200
    assert "workbench" in page.text


def check_browser(client: Client, folder: Path) -> None:
    """A page's text is in its screenshot. The browser's first start may take longer than an action may."""
    client.write("/tmp/page.html", PAGE)
    for attempt in (1, 2, 3):
        action = {"action": "browse", "args": {"url": "file:///tmp/page.html"}}
        extras = client.execute(action, PATIENCE)["extras"]
        if not extras["error"] or attempt == 3:
            break
    assert not extras["error"], extras["last_browser_action_error"]
    assert "Seven times six is 42" in text_in(extras["screenshot"], folder)


def test_the_server_runs_commands_in_its_shell(server: Client) -> None:
    check_shell(server)


def test_a_kernel_runs_a_cell(server: Client) -> None:
    check_kernel(server)


def test_mcp_lists_its_tools_and_calls_one(server: Client) -> None:
    check_mcp(server)


def test_vs_code_answers_with_its_page(server: Client) -> None:
    check_vscode(server)


@LONG
def test_all_of_it_runs_in_an_emulated_machine(tree: Path, tmp_path: Path) -> None:
    # Another user than root, so that Chromium has its own sandbox.
    with machine(tree, tmp_path, "--username agent --user-id 1000") as client:
        check_shell(client)
        check_kernel(client)
        check_mcp(client)
        check_vscode(client)
        check_browser(client, tmp_path)
        features = client._request("GET", "/v1/capabilities").json()["features"]
        assert [name for name, one in features.items() if not one["works"]] == []
        assert features["browser"]["sandboxed"]

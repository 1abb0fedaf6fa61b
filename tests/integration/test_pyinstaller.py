"""The bundle's other flavour: the server as one PyInstaller binary, on every base and by a Dockerfile."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.bases import BASES, HOSTILE, Base, reference
from tests.integration.conftest import Docker, Registry, free_port, program
from tests.integration.test_base_matrix import (
    MODES,
    check_bundled_program,
    check_environment,
    check_git,
    check_locked,
    check_own_program,
    check_shell,
    graftbox,
    sandbox,
)
from tests.integration.test_engines import podman as podman_with_overlay  # noqa: F401 - a fixture
from tests.integration.test_kernels import MAKE_WHEEL, cell
from tests.integration.test_mcp import STDIO_SERVER, call

from graftbox.sandbox.client import Client

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/plugin-clock"
FLAVOR = ("--flavor", "pyinstaller")
BUILD = (sys.executable, "-m", "graftbox.runtime_build_pyinstaller", "--base-image")
FOLDER = "/openhands/code/server"
OWN = "[path for path in {line.split()[-1] for line in open('/proc/self/maps')} if '/' in path]"


@pytest.fixture(scope="module", autouse=True)
def bundle() -> dict[str, Any]:
    """The bundle of this flavour, built once."""
    found: dict[str, Any] = json.loads(graftbox("bundle", "build", *FLAVOR, "--json").stdout)
    return found


@pytest.mark.parametrize(
    ("base", "mode"),
    # Bases that differ in kind. Where all is forbidden nothing comes of what a sandbox is usually given.
    [*((name, "locked-down") for name in ("scratch", "musl", "bullseye", "hostile")), ("hostile", "default")],
)
def test_any_base_becomes_a_sandbox_by_the_binary(base: str, mode: str) -> None:
    with sandbox(base, *FLAVOR, "--engine", "embedded", *MODES[mode].split()) as client:
        check_all(BASES[base], client, locked=mode == "locked-down")


def test_it_runs_in_docker_as_an_image_and_beside_one(dockerd: Docker) -> None:
    for deliver, base in (("mount", "bullseye"), ("graft", "hostile")):
        options = ("--engine", "docker", "--deliver", deliver, *MODES["locked-down"].split())
        with sandbox(base, *FLAVOR, *options) as client:
            check_all(BASES[base], client, locked=True)


def check_all(base: Base, client: Client, *, locked: bool) -> None:
    assert client.alive()
    check_shell(client)
    check_git(client)
    check_own_program(base, client)
    check_bundled_program(client)
    check_environment(base, client, locked=locked)
    if locked:
        check_locked(client)
    check_cells(base, client)
    check_names(client)


def check_cells(base: Base, client: Client) -> None:
    """The kernel is the binary itself, sees the base's variables, and maps our files only."""
    assert cell(client, "print('to' + 'k')") == "tok"
    assert cell(client, "import sys; sys.executable") == "'/openhands/libexec/python3.13'"
    seen = eval(cell(client, "import os; dict(os.environ)"))
    assert {name: seen.get(name) for name in base.variables} == base.variables
    assert not [name for name in seen if name.startswith(("_PYI_", "JUPYTER"))]
    assert "LC_CTYPE" not in seen
    assert ("LD_LIBRARY_PATH" in seen) == ("LD_LIBRARY_PATH" in base.variables)
    mapped = eval(cell(client, OWN))
    assert f"{FOLDER}/_internal/libpython3.13.so.1.0" in mapped
    assert not [path for path in mapped if not path.startswith(("/openhands/", "/dev/", "/SYSV"))]


def check_names(client: Client) -> None:
    """What clients call is there under its name."""
    assert client.run("[ -L /openhands/bin/action-execution-server ] && echo link").output == "link"
    outcome = client.run(
        "/openhands/micromamba/bin/micromamba run -n openhands poetry run python -c 'print(6*7)'"
    )
    assert (outcome.output, outcome.exit_code) == ("42", 0)


def test_cells_find_an_interpreter_pip_and_the_whole_library() -> None:
    with sandbox("hostile", *FLAVOR, "--engine", "embedded", *MODES["locked-down"].split()) as client:
        code = "import subprocess, sys; subprocess.check_output([sys.executable, '-c', 'print(1)'])"
        assert cell(client, code) == "b'1\\n'"
        code = "import multiprocessing as m; p = m.get_context('spawn').Process(target=print, args=['hello'])"
        assert cell(client, f"{code}; p.start(); p.join(); p.exitcode") == "hello\n0"
        assert cell(client, "import zoneinfo; zoneinfo.ZoneInfo('Europe/Paris').key") == "'Europe/Paris'"
        assert cell(client, "import sqlite3, xml.dom.minidom, wsgiref, curses; 1") == "1"
        cell(client, MAKE_WHEEL)
        assert "Successfully installed" in cell(client, "%pip install --no-index /tmp/tinything-1.0-*.whl")
        assert cell(client, "import tinything; tinything.VERSION") == "1"
        assert cell(client, "!echo $((6 * 7))") == "42"
        assert cell(client, "1 / 0").endswith("ZeroDivisionError: division by zero")
        for number in range(5):
            cell(client, f"x = {number}")
        assert "Execution timed out" in cell(client, "import time; time.sleep(60)", 0.5)
        assert cell(client, "x") == "4"


def test_tools_for_models_work_in_the_binary() -> None:
    started = json.loads(
        graftbox("run", *FLAVOR, "--engine", "embedded", "--detach", "--json", reference("hostile")).stdout
    )
    try:
        result = call(started, "shell", command="echo $LANG; uname")
        assert result.structured_content["output"] == f"{HOSTILE['LANG']}\nLinux"
        call(started, "write", path="/tmp/a/b", content="written\n")
        assert call(started, "grep", pattern="writ+en", path="/tmp/a").content[0].text == "b:1:written"
        assert call(started, "python", code="6 * 7").content[0].text == "42"
        call(started, "write", path="/tmp/server.py", content=STDIO_SERVER)
        server = {"name": "own", "command": "/openhands/bin/oh-python", "args": ["/tmp/server.py"]}
        request = urllib.request.Request(
            f"{started['url']}/update_mcp_server",
            json.dumps([server]).encode(),
            {"X-Session-API-Key": started["key"]},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response)["router_error_log"] == ""
        environment = json.loads(call(started, "own_environment").content[0].text)
        assert not [name for name in environment if name.startswith(("GRAFTBOX_", "_PYI_"))]
    finally:
        graftbox("rm", "-f", started["name"])


def test_the_bundle_is_whole_and_tells_its_flavour(bundle: dict[str, Any]) -> None:
    assert "is whole and self-contained" in graftbox("bundle", "verify", *FLAVOR).stdout
    shown = json.loads(graftbox("bundle", "show", *FLAVOR, "--json").stdout)
    tree = json.loads(graftbox("bundle", "show", "--json").stdout)
    assert (shown["flavor"], shown["digest"]) == ("pyinstaller", bundle["digest"])
    assert shown["lock"] != tree["lock"]
    assert {"pyinstaller", "libpython3.13"} <= {package["name"] for package in shown["packages"]}
    layers = {layer["name"]: layer for layer in shown["components"]}
    assert list(layers)[-1] == "binary"
    # What has no Python is the same layer in both.
    same = {layer["digest"] for layer in tree["components"]} & {layer["digest"] for layer in layers.values()}
    assert same or {layer["name"] for layer in tree["components"]} <= {"core", "jupyter", "mcp", "server"}


def test_every_command_that_takes_a_bundle_takes_this_flavour(
    bundle: dict[str, Any], registry: Registry
) -> None:
    unpacked = Path(graftbox("bundle", "path", *FLAVOR).stdout.strip())
    assert os.access(unpacked / "code/server/action-execution-server", os.X_OK)
    document = json.loads(graftbox("bundle", "sbom", *FLAVOR).stdout)
    found = {component["name"]: component for component in document["components"]}
    assert {"pyinstaller", "libpython3.13", "ipykernel", "chromium-headless-shell"} <= set(found)
    assert found["pyinstaller"]["licenses"]

    image = f"{registry.address}/frozen/bundle:1"
    graftbox("bundle", "push", image, *FLAVOR)
    repository = f"{registry.address}/frozen/runtime"
    made = json.loads(graftbox("graft", "scratch", "--to-repo", repository, *FLAVOR, "--json").stdout)
    named = json.loads(graftbox("tags", "scratch", "--to-repo", repository, *FLAVOR, "--json").stdout)
    assert set(named["digests"].values()) == {made["digest"]}
    others = json.loads(graftbox("tags", "scratch", "--json").stdout)
    assert not [kind for kind in named["digests"] if named[kind] == others[kind]]
    assert named["versioned"] == others["versioned"].replace("_scratch", "-pyinstaller_scratch")
    runtime = f"{repository}:{named['versioned']}"
    assert json.loads(graftbox("doctor", runtime, "--quick", "--json").stdout)["usable"]
    verified = json.loads(graftbox("verify", runtime, "--json").stdout)
    assert bundle["digest"] in json.dumps(verified)


@pytest.fixture
def other_cache(tmp_path: Path) -> Path:
    """A cache in another place with all that has been built, to change."""
    from graftbox.store import cache_root

    for name in ("blobs", "inventories", "layers"):
        shutil.copytree(cache_root() / name, tmp_path / "cache" / name, copy_function=_linked)
    return tmp_path / "cache"


def _linked(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


@pytest.mark.skipif(
    os.environ.get("GRAFTBOX_LONG_TESTS") != "1", reason="long: GRAFTBOX_LONG_TESTS=1 is not set"
)
def test_the_same_inputs_give_the_same_bytes(bundle: dict[str, Any], other_cache: Path) -> None:
    """Also where the cache's path is another one."""
    from graftbox.bundle.build import BINARY, job_class
    from graftbox.bundle.progress import Silent
    from graftbox.store import Store

    job = job_class("pyinstaller").of(store=Store(other_cache))
    (other_cache / "layers" / f"{job.key(BINARY)}.json").unlink()
    assert job.layer(BINARY, Silent(), None).digest == bundle["components"][-1]["digest"]


def test_poetry_makes_the_program_too(
    tmp_path: Path, other_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/flavours.md says: two environments, pinned by hash, and the folder that comes out of them."""
    program("objdump", "binutils")
    pip = ("-m", "pip", "install", "-qq", "--disable-pip-version-check")
    for name, requirements in (("tools", "poetry"), ("frozen", "binary")):
        subprocess.run([sys.executable, "-m", "venv", tmp_path / name], check=True)
        python = tmp_path / name / "bin/python"
        pinned = ("--require-hashes", "-r", ROOT / f"requirements/{requirements}.txt")
        subprocess.run([python, *pip, *pinned], check=True)
    wheel = (sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation")
    subprocess.run([*wheel, "-w", tmp_path, ROOT], check=True)
    subprocess.run([*wheel, "-w", tmp_path, _copied(EXAMPLE, tmp_path / "clock")], check=True)
    wheels = [*tmp_path.glob("graftbox-*.whl"), *tmp_path.glob("graftbox_plugin_clock-*.whl")]
    subprocess.run([python, *pip, "--no-deps", *wheels], check=True)
    shutil.copytree(ROOT / "packaging/poetry", tmp_path / "project")
    made = subprocess.run(
        [tmp_path / "tools/bin/poetry", "build"],
        cwd=tmp_path / "project",
        env={
            **os.environ,
            "PATH": f"{tmp_path}/tools/bin:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(tmp_path / "frozen"),
            "POETRY_CACHE_DIR": str(tmp_path / "poetry"),
        },
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
    folder = next((tmp_path / "project/dist/pyinstaller").glob("*/action-execution-server"))
    monkeypatch.setenv("GRAFTBOX_CACHE", str(other_cache))
    options = (*FLAVOR, "--component", "jupyter", "--component", "mcp")
    graftbox("bundle", "build", *options, "--from-dist", str(folder))
    with sandbox("scratch", *options, "--engine", "embedded", *MODES["locked-down"].split()) as client:
        check_shell(client)
        check_environment(BASES["scratch"], client, locked=True)
        assert cell(client, "import sys; sys.version_info[:2]") == str(sys.version_info[:2])
        mapped = eval(cell(client, OWN))
        assert not [path for path in mapped if not path.startswith(("/openhands/", "/dev/", "/SYSV"))]
        # What brings entry points is frozen as everything else in the environment.
        for name in ("clock", "chimes"):
            begun = client._request("POST", f"/v1/plugins/{name}/start?wait=50", timeout=90).json()
            assert begun["state"] == "running", begun
            assert begun["source"] == "entry point of graftbox_plugin_clock-1.0"
        assert re.fullmatch(r"[\d:]{8}\n", client._request("GET", "/v1/proxy/clock/").text)


def _copied(source: Path, target: Path) -> Path:
    """Where building it leaves nothing behind."""
    shutil.copytree(source, target)
    return target


def test_a_dockerfile_copies_the_binary(dockerd: Docker) -> None:
    done = subprocess.run(
        [*BUILD, "scratch"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip().splitlines()[-1]
    try:
        labels = json.loads(dockerd("inspect", "--format", "{{json .Config.Labels}}", name))
        assert labels["io.graftbox.method"] == "pyinstaller"
        container = dockerd("run", "--detach", "--env", "SESSION_API_KEY=k", name)
        address = dockerd("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container)
        with Client(f"http://{address}:60000", "k") as client:
            client.wait_until_alive(60)
            assert client.run("echo $((6 * 7))").output == "42"
            assert cell(client, "6 * 7") == "42"
        dockerd("rm", "--force", container)
    finally:
        dockerd("rmi", "--force", name)


@pytest.mark.usefixtures("podman_with_overlay")
def test_podman_and_buildah_build_the_binary_and_podman_runs_it(
    registry: Registry, skopeo: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"{registry.address}/frozen/busybox:1"
    skopeo("copy", "--quiet", "--dest-tls-verify=false", reference("busybox"), f"docker://{base}")
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{registry.address}"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    monkeypatch.setenv("OH_RUNTIME_RUNTIME_IMAGE_REPO", "localhost/frozen/runtime")

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip()

    name = run(*BUILD, base, "--engine", "podman")
    # Buildah has the same images, and makes none again.
    assert run(*BUILD, base, "--engine", "buildah") == name
    port = str(free_port())
    options = ("--detach", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
    container = run(program("podman"), "run", *options, "--env=SESSION_API_KEY=k", name, port)
    try:
        with Client(f"http://127.0.0.1:{port}", "k") as client:
            client.wait_until_alive(60)
            assert client.run("echo $((6 * 7)); busybox uname").output == "42\nLinux"
            assert cell(client, "import sys; sys.executable") == "'/openhands/libexec/python3.13'"
    finally:
        run(program("podman"), "rm", "--force", "--time=0", container)

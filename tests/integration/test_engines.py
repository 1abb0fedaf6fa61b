"""A sandbox's life on every engine, as a user of the command line has it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.bases import reference
from tests.integration.conftest import Docker, Registry, missing, program

from graftbox.errors import UnsupportedError
from graftbox.sandbox.client import Client
from graftbox.sandbox.engines.docker import DockerEngine
from graftbox.sandbox.spec import EngineImage, SandboxSpec, new_key
from graftbox.store import Store

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
ENGINES = ("docker", "podman", "embedded")


def graftbox(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([GRAFTBOX, *arguments], capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"graftbox {' '.join(arguments)}: {done.stderr}"
    return done


@pytest.fixture(scope="module")
def podman() -> Iterator[None]:
    """Podman with storage of its own, on runc: some crun versions refuse this kind of cgroup mounts."""
    program("podman")
    if os.geteuid() != 0:
        missing("root, to run podman with storage of its own")
    folder = Path(tempfile.mkdtemp(prefix="graftbox-podman-test-"))
    storage = (
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        if os.uname().sysname == "Linux"
        else ""
    )
    (folder / "storage.conf").write_text(storage)
    runtime = "runc" if shutil.which("runc", path=os.environ["PATH"] + ":/usr/sbin") else "crun"
    (folder / "containers.conf").write_text(
        f'[engine]\nruntime = "{runtime}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        f'tmp_dir = "{folder}/tmp"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(folder / "storage.conf"))
        patch.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))
        try:
            yield
        finally:
            subprocess.run(["podman", "rm", "--all", "--force"], capture_output=True)
            subprocess.run(["podman", "rmi", "--all", "--force"], capture_output=True)
            for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
                if line.split()[1].startswith(f"{folder}/"):
                    subprocess.run(["umount", "--lazy", line.split()[1]], capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name == "docker":
        request.getfixturevalue("dockerd")
    if name == "podman":
        request.getfixturevalue("podman")
    return name


@pytest.fixture
def detached(engine: str) -> Iterator[Callable[..., dict[str, str]]]:
    """Starts sandboxes that are deleted in the end."""
    names = []

    def start(*options: str, base: str = "busybox") -> dict[str, str]:
        started = json.loads(
            graftbox("run", "--engine", engine, "--detach", "--json", *options, reference(base)).stdout
        )
        names.append(started["name"])
        assert isinstance(started, dict)
        return started

    yield start
    for name in names:
        graftbox("rm", "-f", name, check=False)


def listed(name: str) -> dict[str, str] | None:
    rows = json.loads(graftbox("ps", "--json").stdout)["sandboxes"]
    return next((row for row in rows if row["name"] == name), None)


def test_a_detached_sandbox_is_found_stopped_and_removed_by_name(
    engine: str, detached: Callable[..., dict[str, str]]
) -> None:
    started = detached()
    assert set(started) == {"name", "url", "key", "engine", "image"}
    assert started["engine"] == engine
    name = started["name"]
    row = listed(name)
    assert row is not None
    assert (row["status"], row["url"], row["image"]) == ("running", started["url"], reference("busybox"))
    with Client(started["url"], started["key"]) as client:
        client.write("/tmp/note", "kept\n")
        assert client.run("cat /tmp/note").output == "kept"
        assert client.read("/tmp/note").startswith("kept")
    assert "Listening on" in graftbox("logs", name).stdout
    refused = graftbox("rm", name, check=False)
    assert refused.returncode == 2
    assert "is running" in refused.stderr
    graftbox("stop", name)
    row = listed(name)
    assert row is not None
    assert (row["status"], row["url"]) == ("exited", "")
    assert "Listening on" in graftbox("logs", name).stdout
    graftbox("rm", name)
    assert listed(name) is None


def test_a_stopped_sandbox_starts_again_with_its_files_and_its_key(
    engine: str, detached: Callable[..., dict[str, str]]
) -> None:
    first = detached("--env", "GREETING=hello", "--workdir", "/root")
    with Client(first["url"], first["key"]) as client:
        client.run("echo kept > /root/note")
    assert json.loads(graftbox("start", "--json", first["name"]).stdout) == first  # it runs
    graftbox("stop", first["name"])
    again = json.loads(graftbox("start", "--json", first["name"]).stdout)
    assert again | {"url": ""} == first | {"url": ""}
    assert listed(first["name"]) == {**again, "status": "running"}
    with Client(again["url"], again["key"]) as client:
        assert client.run("echo $GREETING $PWD $(cat note)").output == "hello /root kept"


def test_one_without_network_starts_again_at_its_socket(
    engine: str, detached: Callable[..., dict[str, str]]
) -> None:
    first = detached("--network", "none")
    graftbox("stop", first["name"])
    assert json.loads(graftbox("start", "--json", first["name"]).stdout) == first
    with Client(first["url"], first["key"]) as client:
        assert client.run("echo back").output == "back"


def test_a_name_is_given_once(detached: Callable[..., dict[str, str]]) -> None:
    name = f"twice-{os.getpid()}"
    detached("--name", name)
    row = listed(name)
    assert row is not None
    options = ["--engine", row["engine"], "--detach", "--name", name]
    again = graftbox("run", *options, reference("busybox"), check=False)
    assert again.returncode == 2
    assert name in again.stderr
    assert listed(name) is not None


def test_one_command_gives_its_output_and_exit_code(engine: str) -> None:
    base = reference("busybox")
    before = graftbox("ps", "--json").stdout
    line = graftbox("run", "--engine", engine, base, "--", "echo 'a  b' | wc -c; exit 7", check=False)
    assert (line.returncode, line.stdout) == (7, "5\n"), line.stderr
    assert graftbox("run", "--engine", engine, base, "--", "cat; read x || echo end").stdout == "end\n"
    words = graftbox("run", "--engine", engine, base, "--", "printf", "%s|", "a  b", "$HOME", "c")
    assert words.stdout == "a  b|$HOME|c|\n"
    assert graftbox("ps", "--json").stdout == before


def test_a_runtime_image_runs_without_any_mount(engine: str) -> None:
    done = graftbox(
        "run",
        "--engine",
        engine,
        "--deliver",
        "graft",
        reference("busybox"),
        "--",
        "ls /openhands/bin; grep -c openhands /proc/mounts",
        check=False,
    )
    assert done.returncode == 1  # grep found none
    assert "action-execution-server" in done.stdout
    assert done.stdout.endswith("\n0\n")


@pytest.mark.parametrize("deliver", ["mount", "graft"])
def test_a_registrys_image_is_fetched(
    engine: str, deliver: str, registry: Registry, skopeo: Callable[..., str]
) -> None:
    image = f"{registry.address}/bases/{engine}-{deliver}"
    skopeo("copy", "-q", "--dest-tls-verify=false", reference("busybox"), f"docker://{image}:1")
    options = ("--engine", engine, "--deliver", deliver)
    assert graftbox("run", *options, f"docker://{image}:1", "--", "uname -s").stdout == "Linux\n"
    gone = graftbox("run", *options, f"{image}:2", "--", "true", check=False)
    assert gone.returncode == 1
    assert f"{image}:2" in gone.stderr
    assert "Traceback" not in gone.stderr


@pytest.mark.parametrize("deliver", ["mount", "graft"])
def test_an_image_in_docker_or_in_an_archive_runs_on_every_engine(
    engine: str, deliver: str, dockerd: Docker, skopeo: Callable[..., str], tmp_path: Path
) -> None:
    archive, name = tmp_path / "base.tar", f"team/base:{engine}-{deliver}"
    skopeo("copy", "-q", reference("busybox"), f"docker-archive:{archive}:{name}")
    dockerd("load", "--input", str(archive))
    for base in (f"docker-archive:{archive}", f"docker-daemon:{name}"):
        done = graftbox("run", "--engine", engine, "--deliver", deliver, base, "--", "uname -s")
        assert done.stdout == "Linux\n"


def test_options_reach_the_sandbox(
    engine: str, detached: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "fixed").write_text("fixed\n")
    tmp_path.chmod(0o755)
    started = detached(
        *("-e", "GREETING=two words", "-w", "/made/for/me", "-u", "4321:8765", "--tmpfs", "/quick"),
        *("-v", f"{tmp_path}/shared:/shared", "-v", f"{tmp_path}/fixed:/etc/fixed:ro"),
    )
    with Client(started["url"], started["key"]) as client:
        said = client.run('echo "$GREETING|$PWD|$(id -u):$(id -g)|$(cat /etc/fixed)"').output
        assert said == "two words|/made/for/me|4321:8765|fixed"
        assert client.run("echo hello > /shared/out").exit_code == 0
        assert client.run("echo no > /etc/fixed").exit_code != 0
        assert client.run("echo yes > /quick/out; grep ' /quick ' /proc/mounts").output.startswith("tmpfs")
    assert (tmp_path / "shared/out").read_text() == "hello\n"


def test_without_a_network_the_server_is_reached_by_its_socket(
    detached: Callable[..., dict[str, str]],
) -> None:
    started = detached("--network", "none")
    assert started["url"].startswith("unix:///")
    with Client(started["url"], started["key"]) as client:
        assert client.run("ls /sys/class/net 2>/dev/null; grep -c : /proc/net/dev").output.endswith("1")
    with Client(started["url"], "wrong") as client:
        assert client.alive()
        with pytest.raises(Exception, match="refused the key"):
            client.run("true")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(engine: str, number: signal.Signals) -> None:
    name = f"interrupted-{os.getpid()}"
    process = subprocess.Popen(
        [GRAFTBOX, "run", "--engine", engine, "--name", name, "--json", reference("busybox")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    process.send_signal(number)
    process.communicate(timeout=60)
    assert listed(name) is None
    with Client(url) as client:
        assert not client.alive()


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_a_port_that_is_taken_is_said_at_once(engine: str, network: str) -> None:
    options = [] if engine == "embedded" else ["--network", network]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        name, port = f"taken-{os.getpid()}", str(taken.getsockname()[1])
        options += ["--engine", engine, "--name", name, "--port", port]
        done = graftbox("run", *options, reference("busybox"), check=False)
    assert done.returncode in {1, 2}
    assert port in done.stderr
    assert "in use" in done.stderr
    assert listed(name) is None


def test_a_server_that_cannot_start_is_said_with_its_own_words(engine: str, tmp_path: Path) -> None:
    name = f"broken-{os.getpid()}"
    server = tmp_path / "server"
    server.write_text("#!/openhands/libexec/dash\necho these are my last words >&2; exit 5\n")
    server.chmod(0o755)
    volume = f"{server}:/openhands/bin/action-execution-server:ro"
    options = ("--engine", engine, "--name", name, "-v", volume)
    done = graftbox("run", *options, reference("busybox"), "--", "true", check=False)
    assert done.returncode == 1
    assert "ended before its server answered" in done.stderr
    assert "these are my last words" in done.stderr
    assert listed(name) is None


def test_a_name_that_nobody_has_is_an_error() -> None:
    for command in ("stop", "rm", "logs"):
        done = graftbox(command, "nobody-has-this", check=False)
        assert done.returncode == 1
        assert "graftbox ps" in done.stderr


def test_the_key_is_on_no_command_line() -> None:
    started = json.loads(
        graftbox("run", "--engine", "embedded", "--detach", "--json", reference("busybox")).stdout
    )
    try:
        state = Store().root / "sandboxes" / started["name"] / "state.json"
        assert state.stat().st_mode & 0o777 == 0o600
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert started["key"].encode() not in process.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    finally:
        graftbox("rm", "-f", started["name"])


def test_the_embedded_engine_protects_the_machine_from_its_root() -> None:
    script = (
        "for f in /proc/sys/vm/swappiness /proc/sysrq-trigger; do"
        " [ -e $f ] && { : > $f && echo wrote $f; }; done;"
        " mount -t tmpfs none /mnt 2>/dev/null && echo mounted;"
        " mknod /disk b 8 0 2>/dev/null && cat /disk >/dev/null && echo read; kill -0 1 && echo own"
    )
    done = graftbox("run", "--engine", "embedded", reference("busybox"), "--", script, check=False)
    assert [line for line in done.stdout.splitlines() if line.startswith(("wrote", "mounted", "read"))] == []


def test_a_daemon_that_cannot_see_the_folder_is_told_apart(dockerd: Docker, tmp_path: Path) -> None:
    graftbox("run", "--engine", "docker", reference("busybox"), "--", "true")
    image = dockerd("images", "--format", "{{.Repository}}:{{.Tag}}", "graftbox-base").split()[0]
    store = Store(tmp_path)
    engine = DockerEngine(store)
    spec = SandboxSpec(f"far-{os.getpid()}", new_key(), "far", EngineImage(image), tmp_path / "not-there")
    with pytest.raises(UnsupportedError, match="--deliver graft"):
        engine.start(spec)
    assert engine.find(spec.name) is None
    engine.close()


AS_USER = """
import os, sys
from pathlib import Path
from graftbox.cli import bases, engines, sandboxes
from graftbox.image import layout, unpack, tree, reference, transports, platforms
from graftbox.sandbox import client, users, rootfs, spec as specs
from graftbox.sandbox.engines import embedded, bubblewrap, namespaces
import httpx2, json, encodings.idna, concurrent.futures.thread
from graftbox.store import Store

folder, *bwrap = sys.argv[1:]
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
store = Store(Path(folder, "cache"))
image = bases.unpacked(reference.parse(f"oci:{folder}/layout:busybox"), store)
engine = embedded.EmbeddedEngine(store, lambda: bwrap)
for network, user in ((None, None), (specs.Network.NONE, "12345:12345")):
    wanted = specs.SandboxSpec("mine", "key", "busybox", image, Path(folder), network=network, user=user)
    sandbox = engine.start(wanted)
    with client.Client(sandbox.url, sandbox.key) as http:
        http.wait_until_alive(30, log_tail=lambda: b"".join(engine.logs("mine")).decode())
        print(http.run("id -u; touch /new && mkdir -p /a/b && ls -d /new /a/b").output.split())
    engine.stop("mine")
    engine.remove("mine")
    assert engine.sandboxes() == []
"""


def test_an_ordinary_user_needs_no_daemon_and_no_root(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid() != 0:
        missing("root, to become another user (every other test here already runs as an ordinary one)")
    from graftbox.bundle.tools import bubblewrap
    from graftbox.cli.bases import bundle_tree

    *loader, bwrap = bubblewrap(Store())
    with tempfile.TemporaryDirectory(prefix="graftbox-user-") as name:
        folder = Path(name)
        tools = Path(os.path.commonpath([*(part for part in loader if part.startswith("/")), bwrap]))
        subprocess.run(["cp", "-a", bundle_tree(["core"], Store()) / "openhands", folder], check=True)
        subprocess.run(["cp", "-a", tools, folder / "tools"], check=True)
        layout = Path(reference("busybox").split(":")[1])
        subprocess.run(
            ["skopeo", "copy", "-q", f"oci:{layout}:busybox", f"oci:{folder}/layout:busybox"], check=True
        )
        (folder / "cache").mkdir()
        os.chown(folder / "cache", 65534, 65534)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        command = [word.replace(str(tools), f"{folder}/tools") for word in (*loader, bwrap)]
        done = subprocess.run(
            [sys.executable, "-c", AS_USER, str(folder), *command],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['0', '/a/b', '/new']", "['12345', '/a/b', '/new']"]


def test_where_overlays_are_refused_a_copy_is_used(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("root, to mount the overlay that refuses another on top")
    for part in ("lower", "upper", "work", "cache"):
        (tmp_path / part).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", tmp_path / "cache"], check=True)
    try:
        from graftbox.cli.bases import bundle_tree

        tree = str(bundle_tree(["core"], Store()))
        done = subprocess.run(
            [
                GRAFTBOX,
                "run",
                "--engine",
                "embedded",
                "--tree",
                tree,
                reference("busybox"),
                "--",
                "echo > /x; ls /x",
            ],
            env={**os.environ, "GRAFTBOX_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, "/x\n"), done.stderr
        assert "own copy" in done.stderr
    finally:
        subprocess.run(["umount", tmp_path / "cache"], check=True)

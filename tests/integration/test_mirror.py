"""Docker, podman and containerd pull through `graftbox mirror` from a real registry and run what they got."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.integration import bases
from tests.integration.conftest import Docker, Registry, free_port, program, running_docker, started
from tests.integration.cri import CriError, Message, call

from graftbox.image.graft import FLAVOR, SERVER

INSIDE = [
    "/openhands/bin/oh-python",
    "-c",
    "import os; print('from the bundle,', os.listdir('/bin')[0] != '')",
]


@pytest.fixture(scope="module")
def upstream(registry: Registry, skopeo: Callable[..., str]) -> str:
    """A registry with a real base image, ``library/base:1``; its address."""
    target = f"docker://{registry.address}/library/base:1"
    skopeo("copy", "--quiet", "--dest-tls-verify=false", bases.reference("busybox"), target)
    return registry.address


@contextlib.contextmanager
def mirroring(folder: Path, *names: str, flavor: str = "tree", **env: str) -> Iterator[str]:
    """A running mirror of these upstreams; its address."""
    log = folder / "log"
    address = f"127.0.0.1:{free_port()}"
    graftbox = [sys.executable, "-c", "from graftbox.cli.app import main; main()"]
    form = ["--component", "core", "--flavor", flavor]
    # A mirror would do so too before it listens, and that may take longer than it is waited for.
    subprocess.run([*graftbox, "bundle", "build", *form], check=True, capture_output=True)
    options = ["mirror", "--listen", address, *form]
    options += [f"--upstream={name}" for name in names]

    def ready() -> bool:
        try:
            return httpx2.get(f"http://{address}/v2/", trust_env=False).is_success
        except httpx2.TransportError:
            return False

    with started([*graftbox, *options], log, ready, 60, env={**os.environ, **env}) as process:
        yield address
        assert process.poll() is None, log.read_text()
    assert process.returncode == 0, log.read_text()


@pytest.fixture(scope="module")
def mirror(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mirror of that registry, which it knows as Docker Hub and as ``local``; its address."""
    names = [f"docker.io=http://{upstream}", f"local=http://{upstream}"]
    with mirroring(tmp_path_factory.mktemp("mirror"), *names) as address:
        yield address


def entrypoint(docker: Docker, image: str) -> Any:
    return json.loads(docker("image", "inspect", image))[0]["Config"]["Entrypoint"]


def test_docker_pulls_through_the_mirror(mirror: str, dockerd: Docker) -> None:
    image = f"{mirror}/docker.io/library/base:1"
    try:
        dockerd("pull", "--quiet", image)
        assert entrypoint(dockerd, image) == list(SERVER)
        said = dockerd("run", "--rm", "--network=none", "--entrypoint", INSIDE[0], image, *INSIDE[1:])
        assert said == "from the bundle, True"
    finally:
        dockerd("rmi", "--force", image, check=False)


def test_the_frozen_flavour_is_pulled_through_the_mirror(
    upstream: str, skopeo: Callable[..., str], tmp_path: Path
) -> None:
    with mirroring(tmp_path, f"local=http://{upstream}", flavor="pyinstaller") as address:
        image = f"docker://{address}/local/library/base:1"
        skopeo("copy", "--quiet", "--src-tls-verify=false", image, f"oci:{tmp_path / 'pulled'}:x")
    config = json.loads(skopeo("inspect", "--config", f"oci:{tmp_path / 'pulled'}:x"))["config"]
    assert config["Labels"][FLAVOR] == "pyinstaller"
    unpack = [program("umoci"), "unpack", "--rootless", "--image", f"{tmp_path / 'pulled'}:x"]
    subprocess.run([*unpack, str(tmp_path / "x")], check=True, capture_output=True)
    place = tmp_path / "x/rootfs/server"  # the path of a Unix socket has to be short
    root = ["--bind", str(place.parent), "/", "--proc", "/proc", "--dev", "/dev", "--die-with-parent"]
    variables = {"GRAFTBOX_PORT": "0", "GRAFTBOX_SOCKET": "/server", "GRAFTBOX_NO_AUTH": "1"}
    command = [program("bwrap", "bubblewrap"), *root, "--unshare-all", *config["Entrypoint"]]

    def ready() -> bool:
        with socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(str(place))
                link.sendall(b"GET /alive HTTP/1.0\r\n\r\n")
                return b" 200 " in link.recv(100)
            except OSError:
                return False

    with started(command, tmp_path / "server-log", ready, 60, env={**os.environ, **variables}) as process:
        assert process.poll() is None


def test_docker_gets_sandboxes_under_the_images_own_names(mirror: str) -> None:
    with running_docker("--registry-mirror", f"http://{mirror}") as docker:
        docker("pull", "--quiet", "base:1")
        assert entrypoint(docker, "base:1") == list(SERVER)


def test_podman_gets_sandboxes_under_the_images_own_names(
    mirror: str, podman: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registries.conf").write_text(
        'unqualified-search-registries = ["docker.io"]\n'
        '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
        f'[[registry.mirror]]\nlocation = "{mirror}/docker.io"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    podman("pull", "--quiet", "docker.io/library/base:1")
    (shown,) = json.loads(podman("image", "inspect", "docker.io/library/base:1"))
    assert shown["Config"]["Entrypoint"] == list(SERVER)
    podman("pull", "--quiet", "--tls-verify=false", f"{mirror}/local/library/base:1")
    (other,) = json.loads(podman("image", "inspect", f"{mirror}/local/library/base:1"))
    assert other["RootFS"] == shown["RootFS"]


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs ctr against a private containerd."""
    daemon, client = program("containerd"), program("ctr", "containerd")
    with tempfile.TemporaryDirectory(prefix="ctrd") as state:
        socket = f"{state}/socket"
        (tmp_path / "config.toml").write_text(
            f'version = 2\nroot = "{tmp_path}/containerd"\nstate = "{state}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{socket}"\n[ttrpc]\naddress = "{socket}.ttrpc"\n'
        )

        def run(*arguments: str, check: bool = True) -> str:
            done = subprocess.run(
                [client, "--address", socket, *arguments], capture_output=True, text=True, timeout=120
            )
            if check and done.returncode:
                pytest.fail(f"ctr {' '.join(arguments)} failed: {done.stderr or done.stdout}")
            return done.stdout if done.returncode == 0 else done.stderr

        def ready() -> bool:
            return Path(socket).exists() and "Server:" in run("version", check=False)

        with started([daemon, "--config", str(tmp_path / "config.toml")], tmp_path / "log", ready, 60):
            yield run


def test_containerd_gets_sandboxes_under_the_images_own_names(
    mirror: str, containerd: Callable[..., str], tmp_path: Path
) -> None:
    hosts = tmp_path / "certs.d" / "docker.io"
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(
        f'server = "http://{mirror}"\n[host."http://{mirror}"]\ncapabilities = ["pull", "resolve"]\n'
    )
    image, snapshotter = "docker.io/library/base:1", "--snapshotter=native"
    containerd("images", "pull", "--hosts-dir", str(hosts.parent), snapshotter, image)
    said = containerd("run", "--rm", snapshotter, image, "one", *INSIDE)
    assert said.strip() == "from the bundle, True"


@pytest.fixture
def kubelet(
    mirror: str, registry: Registry, skopeo: Callable[..., str], tmp_path: Path
) -> Iterator[Callable[..., dict[int, Any]]]:
    """Calls the CRI of a private containerd that knows the mirror by ``hosts.toml``, as a kubelet does."""
    folder, pause = tmp_path / "certs.d" / "docker.io", f"{registry.address}/pause:1"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(f'[host."http://{mirror}"]\ncapabilities = ["pull", "resolve"]\n')
    # What holds a pod's namespaces: any image whose program waits.
    skopeo("copy", "--quiet", bases.reference("busybox"), f"oci:{tmp_path / 'pause'}:1")
    config = [
        program("umoci"),
        "config",
        "--image",
        f"{tmp_path / 'pause'}:1",
        "--config.entrypoint=/bin/sleep",
    ]
    subprocess.run([*config, "--config.cmd=100000"], check=True, capture_output=True)
    skopeo("copy", "--quiet", "--dest-tls-verify=false", f"oci:{tmp_path / 'pause'}:1", f"docker://{pause}")
    with tempfile.TemporaryDirectory(prefix="cri") as state:
        endpoint, plugin = Path(state) / "socket", 'plugins."io.containerd.grpc.v1.cri"'
        (tmp_path / "config.toml").write_text(
            f'version = 2\nroot = "{tmp_path}/containerd"\nstate = "{state}/state"\n'
            f'[grpc]\naddress = "{endpoint}"\n[ttrpc]\naddress = "{endpoint}.ttrpc"\n'
            f'[{plugin}]\nsandbox_image = "{pause}"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n'
            f'[{plugin}.containerd]\nsnapshotter = "native"\n'
            f'[{plugin}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
            f'[{plugin}.registry]\nconfig_path = "{folder.parent}"\n'
        )

        def ready() -> bool:
            try:
                return b"containerd" in call(endpoint, "RuntimeService/Version", {}, 5).values()
            except (OSError, CriError):
                return False

        def run(method: str, message: Message) -> dict[int, Any]:
            try:
                return call(endpoint, method, message)
            except CriError as error:
                pytest.fail(
                    f"{error}; the end of containerd's log:\n{(tmp_path / 'log').read_text()[-2000:]}"
                )

        command = [program("containerd"), "--config", str(tmp_path / "config.toml")]
        with started(command, tmp_path / "log", ready, 30):
            yield run


ALIVE = """
import socket, time
while True:
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect("/dev/shm/server")
        break
    except OSError:
        time.sleep(0.05)
link.sendall(b"GET /alive HTTP/1.0\\r\\n\\r\\n")
print(link.recv(100).split()[1].decode())
"""


def test_an_unchanged_pod_becomes_a_sandbox(kubelet: Callable[..., dict[int, Any]], tmp_path: Path) -> None:
    """The pod names ``base:1`` of Docker Hub and no command; containerd asks the mirror for it."""
    image = {1: "docker.io/library/base:1"}  # as a kubelet spells out `image: base:1`
    on_the_node = 2  # a network as the machine's: needs no plug-in
    pod = {1: {1: "pod", 2: f"uid-{os.getpid()}", 3: "default"}, 3: str(tmp_path / "logs")}
    pod[8] = {2: {1: {1: on_the_node}}}
    kubelet("ImageService/PullImage", {1: image})
    sandbox = kubelet("RuntimeService/RunPodSandbox", {1: pod})[1]
    try:
        variables = [{1: "GRAFTBOX_PORT", 2: "0"}, {1: "GRAFTBOX_SOCKET", 2: "/dev/shm/server"}]
        asked = {1: {1: "sandbox"}, 2: image, 6: [*variables, {1: "GRAFTBOX_NO_AUTH", 2: "1"}], 15: {}}
        made = kubelet("RuntimeService/CreateContainer", {1: sandbox, 2: asked, 3: pod})[1]
        kubelet("RuntimeService/StartContainer", {1: made})
        words = [INSIDE[0], "-c", ALIVE]
        said = kubelet("RuntimeService/ExecSync", {1: made, 2: words, 3: 60})
        assert said[1] == b"200\n", said
    finally:
        kubelet("RuntimeService/StopPodSandbox", {1: sandbox})
        kubelet("RuntimeService/RemovePodSandbox", {1: sandbox})


HTPASSWD = "jo:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def test_clients_without_a_log_in_pull_what_the_mirror_may_read(
    start_registry: Any, containerd: Callable[..., str], skopeo: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    extra = f"auth: {{htpasswd: {{realm: test, path: {tmp_path / 'htpasswd'}}}}}\n"
    with start_registry(tmp_path / "private", extra=extra) as private:
        target = f"docker://{private.address}/team/base:1"
        account = ["--dest-tls-verify=false", "--dest-creds=jo:secret"]
        skopeo("copy", "--quiet", *account, bases.reference("busybox"), target)
        auth = base64.b64encode(b"jo:secret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {private.address: {"auth": auth}}}))
        upstream = f"private=http://{private.address}"
        with mirroring(tmp_path, upstream, DOCKER_CONFIG=str(tmp_path)) as address:
            image = f"{address}/private/team/base:1"
            containerd("images", "pull", "--plain-http", "--snapshotter=native", image)
    assert "team/base" in containerd("images", "ls")

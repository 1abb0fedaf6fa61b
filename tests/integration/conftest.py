"""The real things that integration tests run against: a registry, a Docker daemon, command-line tools.

What is missing is skipped by name; with ``GRAFTBOX_TEST_STRICT=1`` it is a failure instead.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.faults import Faulty, faulty

STRICT = os.environ.get("GRAFTBOX_TEST_STRICT") == "1"


def missing(what: str) -> None:
    """Ends the test: a skip that names what is missing, a failure when strict."""
    if STRICT:
        pytest.fail(f"missing on this machine: {what}")
    pytest.skip(f"missing on this machine: {what}")


def program(name: str, package: str | None = None) -> str:
    """The full path of a program that the test needs."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        missing(f"the program {name} (package {package or name})")
    assert path is not None
    return path


def shown_below_tmp() -> list[str]:
    """Options for bubblewrap after ``--tmpfs /tmp``: this clone and its Python may be below ``/tmp``."""
    folders = {str(Path(__file__).parents[2] / "src"), sys.prefix, sys.base_prefix}
    return [word for folder in sorted(folders) for word in ("--ro-bind", folder, folder)]


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on, and that no client is given either."""
    while True:
        port = random.randrange(20000, 30000)  # below the range of /proc/sys/net/ipv4/ip_local_port_range
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def started(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    seconds: float,
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a daemon while the block runs; fails with the end of its log if it does not get ready."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        )
    try:
        deadline = time.monotonic() + seconds
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                pytest.fail(f"{command[0]} did not get ready; the end of its log:\n{tail}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Registry:
    """A real registry on the loopback interface, plain HTTP, no authentication."""

    address: str
    """``127.0.0.1:port``, the first part of image names."""
    root: Path
    """Its storage folder."""
    log: Path
    """Its log; one line per request, ``"POST /v2/…`` and so on."""


@contextlib.contextmanager
def running_registry(
    folder: Path, port: int | None = None, extra: str = "", host: str = "127.0.0.1", secret: str = "test"
) -> Iterator[Registry]:
    """Debian's docker-registry with its own configuration and data; ``extra`` is more YAML.

    One with another ``secret`` knows nothing of the uploads that were begun before.
    """
    binary = program("docker-registry")
    port = port or free_port()
    root = folder / "data"
    root.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: warn, accesslog: {disabled: false}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '{host}:{port}', secret: {secret}, relativeurls: true}}\n{extra}"
    )
    log = folder / "registry.log"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/v2/", timeout=1):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 401
        except OSError:
            return False

    with started([binary, "serve", str(config)], log, ready, 60):
        yield Registry(f"{host}:{port}", root, log)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One registry for the whole run; tests use repository names of their own."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """A repository path that no other test uses."""
    return re.sub(r"[^a-z0-9]+", "-", tmp_path.name.lower()).strip("-")


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Faulty]:
    """A proxy before that registry that breaks what it is told to."""
    with faulty(registry.address) as running:
        yield running


@pytest.fixture(scope="session")
def tls_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Port and certificate of a registry that is ``registry.test`` and 127.0.0.1."""
    from tests.integration.tokens import encrypted

    with encrypted(tmp_path_factory.mktemp("tls")) as running:
        yield running


@dataclass(frozen=True)
class Docker:
    """A Docker daemon; ``DOCKER_HOST`` points to it while the tests run."""

    host: str

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 120) -> str:
        """Runs the docker command line and returns its output, without the last newline."""
        done = subprocess.run(
            ["docker", *arguments],
            env={**os.environ, "DOCKER_HOST": self.host},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            pytest.fail(
                f"docker {' '.join(arguments)} failed ({done.returncode}): {done.stderr or done.stdout}"
            )
        return (done.stdout if done.returncode == 0 else done.stdout + done.stderr).rstrip("\n")


def _answers(host: str) -> bool:
    done = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        env={**os.environ, "DOCKER_HOST": host},
        capture_output=True,
    )
    return done.returncode == 0


@contextlib.contextmanager
def running_docker(*options: str) -> Iterator[Docker]:
    """The daemon that already runs, else a private one with its own data, socket and state.

    With ``options`` it is always a private one, which can run beside another.
    """
    program("docker", "docker.io")
    running = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not options and _answers(running):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", running)
            yield Docker(running)
        return
    binary = program("dockerd", "docker.io")
    if os.geteuid() != 0:
        missing("a running Docker daemon, or root to start a private one")
    # A Unix socket's path may have 107 bytes only, and pytest's folders are deep.
    folder = Path("/tmp") / f"graftbox-dockerd{len(options)}-{os.getpid()}"
    host = f"unix://{folder}/docker.sock"
    command = [binary, "--host", host, "--group", "root", "--data-root", str(folder / "data")]
    command += ["--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")]
    if options:
        # Not --bridge none: that deletes the bridge, and with it another daemon's network.
        command += ["--iptables=false", *options]
    folder.mkdir(mode=0o755)
    try:
        with (
            started(command, folder / "log", lambda: _answers(host), 60),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("DOCKER_HOST", host)
            docker = Docker(host)
            try:
                yield docker
            finally:
                # A daemon that is told to end waits 15 s for containers that do not heed SIGTERM.
                if left := docker("ps", "--all", "--quiet", check=False).split():
                    docker("rm", "--force", "--volumes", *left, check=False)
    finally:
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Docker]:
    """A Docker daemon for the whole run."""
    with running_docker() as docker:
        yield docker


def _unmount_below(folder: Path) -> None:
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], capture_output=True)


@pytest.fixture(scope="session")
def skopeo() -> Callable[..., str]:
    """Runs skopeo and returns its output; a failure fails the test."""
    binary = program("skopeo")

    def run(*arguments: str) -> str:
        done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.fail(f"skopeo {' '.join(arguments)} failed: {done.stderr}")
        return done.stdout

    return run


@pytest.fixture
def start_registry() -> Callable[..., contextlib.AbstractContextManager[Registry]]:
    """Starts a further registry: `running_registry`."""
    return running_registry


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs podman with storage of its own and returns its output; a failure fails the test."""
    binary = program("podman")
    # Podman takes 50 characters for its state folder, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="pm") as state:
        own = ["--root", str(tmp_path / "podman"), "--runroot", state, "--storage-driver", "vfs"]

        def run(*arguments: str) -> str:
            done = subprocess.run([binary, *own, *arguments], capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.fail(f"podman {' '.join(arguments)} failed: {done.stderr}")
            return done.stdout

        yield run

"""Grafts in podman's storage and in containerd, and one archive that every engine loads."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import missing, program, started

from graftbox.errors import NotFoundError, UnsupportedError
from graftbox.image import daemon_batch
from graftbox.image.graft import SERVER, Bundle
from graftbox.image.place import Report, graft_image
from graftbox.image.platforms import machine_architecture
from graftbox.image.reference import image_name, parse
from graftbox.image.reuse import Outcome
from graftbox.image.tags import Choice
from graftbox.image.transports import Access
from graftbox.image.verify import Question, verify
from graftbox.store import Store

FILES = [{"etc/name": b"base", "bin/tool": b"\x7fELF" * 1000}, {"etc/more": b"more"}]
PROCESS = {"Env": ["A=b"], "Cmd": ["/bin/tool"], "User": "7"}
NAME = "docker.io/graft-test/base:1"


@pytest.fixture
def own_bundle(bundle: Bundle, arm_bundle: Bundle) -> Bundle:
    return arm_bundle if machine_architecture() == "arm64" else bundle


@pytest.fixture
def graft(store: Store, own_bundle: Bundle) -> Callable[..., Report]:
    bundles = {machine_architecture(): own_bundle}
    return lambda base, target, **more: graft_image(parse(base), parse(target), bundles, store, **more)


@pytest.fixture
def proved(store: Store, own_bundle: Bundle) -> Callable[[str], bool]:
    """Whether an image is exactly its base and the bundle; the differences are shown if it is not."""

    def run(image: str, **more: Any) -> bool:
        verdict = verify(Question(parse(image), lambda *_: [own_bundle], store, **more))
        print(*verdict.all_differences, sep="\n")
        return verdict.ok

    return run


@pytest.fixture
def oci_base(layout: Any) -> str:
    layout.image(FILES, process=PROCESS, arch=machine_architecture())
    return f"oci:{layout.folder}:base"


Run = Callable[..., str]


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Podman with storage of its own, which every program of containers/storage finds."""
    binary = program("podman")
    if os.geteuid() != 0:
        missing("root, to run podman with storage of its own")
    with tempfile.TemporaryDirectory(prefix="pm") as state:
        conf = tmp_path / "storage.conf"
        conf.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/podman"\nrunroot = "{state}"\n')
        monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))

        def run(*arguments: str) -> str:
            done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.fail(f"podman {' '.join(arguments)} failed: {done.stderr}")
            return done.stdout

        yield run


@pytest.fixture(scope="module")
def containerd() -> Iterator[Run]:
    """A containerd of its own; the function runs ctr."""
    binary, ctr = program("containerd"), program("ctr", "containerd")
    if os.geteuid() != 0:
        missing("root, to start containerd")
    with tempfile.TemporaryDirectory(prefix="cd") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        socket = folder / "sock"
        (folder / "config.toml").write_text(
            'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'root = "{folder}/root"\nstate = "{folder}/state"\n[grpc]\n  address = "{socket}"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\n  path = "{folder}/opt"\n'
        )
        patch.setenv("CONTAINERD_ADDRESS", str(socket))
        patch.setenv("CONTAINERD_SNAPSHOTTER", "native")
        patch.setenv("CONTAINERD_NAMESPACE", "default")

        def run(*arguments: str) -> str:
            done = subprocess.run([ctr, *arguments], capture_output=True, text=True, timeout=60)
            if done.returncode:
                pytest.fail(f"ctr {' '.join(arguments)} failed: {done.stderr}")
            return done.stdout

        def ready() -> bool:
            return subprocess.run([ctr, "version"], capture_output=True).returncode == 0

        command = [binary, "--config", str(folder / "config.toml")]
        with started(command, folder / "log", ready, 60):
            yield run


def test_a_base_that_only_podman_has(
    oci_base: str, podman: Run, graft: Callable[..., Report], proved: Callable[..., bool], skopeo: Run
) -> None:
    skopeo("copy", oci_base, f"containers-storage:{NAME}")
    base, target = f"containers-storage:{NAME}", "containers-storage:docker.io/graft-test/run:1"
    report = graft(base, target, tags=["2"])
    assert report.layers_sent == 2
    for tag in ("1", "2"):
        (shown,) = json.loads(podman("image", "inspect", f"docker.io/graft-test/run:{tag}"))
        assert "sha256:" + shown["Id"] == report.digest
        assert shown["Config"]["Entrypoint"] == list(SERVER)
        assert shown["Config"]["User"] == "7"
        assert len(shown["RootFS"]["Layers"]) == 4
    again = graft(base, "containers-storage:docker.io/graft-test/run:3", user="8")
    assert again.layers_sent == again.bytes_sent == 0
    assert proved(target, layers=True)
    mounted = Path(podman("image", "mount", "docker.io/graft-test/run:1").strip())
    assert (mounted / "openhands" / "core").exists()
    assert (mounted / "etc/more").read_bytes() == b"more"
    podman("image", "unmount", "docker.io/graft-test/run:1")


def test_from_a_layout_into_podman_and_back(
    oci_base: str, podman: Run, graft: Callable[..., Report], tmp_path: Path, skopeo: Run
) -> None:
    report = graft(oci_base, "containers-storage:graft-test/run:1")
    assert report.layers_sent == 4
    assert podman("image", "inspect", "--format", "{{.Id}}", "graft-test/run:1").strip() in report.digest
    back = graft("containers-storage:graft-test/run:1", f"oci:{tmp_path / 'out'}:run")
    assert json.loads(skopeo("inspect", f"oci:{tmp_path / 'out'}:run"))["Digest"] == back.digest


def test_an_image_that_podman_lacks(podman: Run, graft: Callable[..., Report], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="podman pull"):
        graft("containers-storage:graft-test/nothing:1", f"oci:{tmp_path / 'out'}:run")


def test_a_base_that_only_containerd_has(
    oci_base: str,
    containerd: Run,
    graft: Callable[..., Report],
    proved: Callable[..., bool],
    tmp_path: Path,
    skopeo: Run,
) -> None:
    skopeo("copy", oci_base, f"oci-archive:{tmp_path / 'base.tar'}:{NAME}")
    containerd("images", "import", str(tmp_path / "base.tar"))
    target = "containerd:docker.io/graft-test/run:1"
    report = graft(f"containerd:{NAME}", target, tags=["2"])
    assert report.layers_sent == 2
    listed = containerd("images", "ls")
    for tag in ("1", "2"):
        (line,) = [
            line for line in listed.splitlines() if line.startswith(f"docker.io/graft-test/run:{tag} ")
        ]
        assert report.digest in line
    again = graft(f"containerd:{NAME}", "containerd:docker.io/graft-test/run:3", user="8")
    assert again.layers_sent == again.bytes_sent == 0
    assert proved(target, layers=True)
    content = containerd("images", "check", "name==docker.io/graft-test/run:1")
    assert "complete (5/5)" in content or "complete (6/6)" in content
    with tempfile.TemporaryDirectory() as folder:
        containerd("images", "mount", "docker.io/graft-test/run:1", folder)
        try:
            assert (Path(folder) / "openhands" / "core").exists()
        finally:
            subprocess.run(["umount", folder], capture_output=True)


def test_containerds_namespaces_are_told_apart(
    oci_base: str, containerd: Run, graft: Callable[..., Report], tmp_path: Path
) -> None:
    graft(oci_base, "containerd:[k8s.io]graft-test/other:1")
    assert "graft-test/other:1" in containerd("--namespace", "k8s.io", "images", "ls", "--quiet")
    with pytest.raises(NotFoundError, match=r"containerd:\[k8s.io\]"):
        graft("containerd:graft-test/other:1", f"oci:{tmp_path / 'out'}:run")
    graft("containerd:[k8s.io]graft-test/other:1", f"oci:{tmp_path / 'out'}:run")


@pytest.fixture
def docker_bases(dockerd: Any, tmp_path: Path, tar_of: Callable[..., bytes]) -> Iterator[list[str]]:
    """Five base images that exist in the daemon only."""
    names = [f"graft-test/many:{number}" for number in range(5)]
    for number, name in enumerate(names):
        (tmp_path / "base.tar").write_bytes(tar_of({"etc/name": str(number).encode()}))
        dockerd("import", "--change", "USER 7", str(tmp_path / "base.tar"), name)
    yield names
    left = dockerd("images", "--format", "{{.Repository}}:{{.Tag}}", "graft-test/*").split()
    dockerd("rmi", "--force", *left)


def test_many_images_go_into_docker_in_one_stream(
    docker_bases: list[str], dockerd: Any, store: Store, own_bundle: Bundle, proved: Callable[..., bool]
) -> None:
    choice = Choice({machine_architecture(): own_bundle})
    repository = image_name("graft-test/runs")

    def load(bases: list[str]) -> list[Outcome]:
        return list(daemon_batch.load(bases, repository, choice, store, Access()))

    made = load([*docker_bases, "graft-test/nothing:1", "no name"])
    assert sorted(one.status for one in made) == ["failed"] * 2 + ["made"] * 5
    assert sum(one.bytes_sent for one in made) == sum(layer.size for layer in own_bundle.layers), (
        "each layer once"
    )
    for one in made:
        if one.status == "made":
            assert dockerd("image", "inspect", "--format", "{{.Id}}", one.image) == one.digest
            assert all(
                dockerd("image", "inspect", "--format", "{{.Id}}", f"graft-test/runs:{tag}")
                for tag in one.tags
            )
    assert proved(f"docker-daemon:{made[2].image}", layers=True)
    again = load(docker_bases)
    assert {one.status for one in again} == {"present"}
    assert {one.digest for one in again} == {one.digest for one in made if one.digest}
    other = Choice(choice.bundles, user="8")
    renamed = list(daemon_batch.load(docker_bases, repository, other, store, Access()))
    assert {one.status for one in renamed} == {"made"}
    assert sum(one.bytes_sent for one in renamed) == 0, "all layers are there"


def test_without_their_programs_the_message_says_what_to_do(
    oci_base: str, graft: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedError, match="podman is not installed"):
        graft(oci_base, "containers-storage:x:1")
    with pytest.raises(UnsupportedError, match="ctr is not installed"):
        graft(oci_base, "containerd:x:1")


@pytest.mark.parametrize("form", ["docker-archive:{0}:docker.io/graft-test/archive:1", "oci-archive:{0}:1"])
def test_one_archive_for_podman_containerd_skopeo_and_umoci(
    form: str,
    oci_base: str,
    podman: Run,
    containerd: Run,
    graft: Callable[..., Report],
    tmp_path: Path,
    skopeo: Run,
) -> None:
    archive = tmp_path / "image.tar"
    report = graft(oci_base, form.format(archive))
    podman("load", "--quiet", "--input", str(archive))
    containerd("images", "import", "--digests", "--base-name", f"archive-{form[:3]}", str(archive))
    assert report.digest in containerd("images", "ls")
    folder = tmp_path / "copied"
    skopeo("copy", form.format(archive), f"oci:{folder}:run")
    umoci = program("umoci")
    said = subprocess.run(
        [umoci, "stat", "--image", f"{folder}:run", "--json"], capture_output=True, text=True, check=True
    )
    layers = [entry for entry in json.loads(said.stdout)["history"] if entry["layer"]]
    assert len(layers) == 4

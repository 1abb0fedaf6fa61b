"""The ways that build, in real Docker (both builders), Podman and Buildah, with a small bundle."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration import bases
from tests.integration.conftest import Docker, Registry, program

from graftbox import runtime_build
from graftbox.cli.ways import Wanted, make
from graftbox.errors import TransportError
from graftbox.image.bundle_image import push_bundle
from graftbox.image.graft import BASE_LABELS, BASE_NAME, SERVER, Bundle
from graftbox.image.place import graft_image
from graftbox.image.platforms import machine_architecture
from graftbox.image.reference import parse
from graftbox.image.transports import Access
from graftbox.store import Store


@pytest.fixture(scope="module")
def base(registry: Registry, skopeo: Callable[..., str]) -> str:
    """A base image with a shell, in a registry."""
    name = f"{registry.address}/ways/busybox:1"
    skopeo("copy", "--quiet", "--dest-tls-verify=false", bases.reference("busybox"), f"docker://{name}")
    return name


@pytest.fixture
def repository(dockerd: Docker) -> Iterator[str]:
    name = f"graft-test/ways-{os.getpid()}"
    yield name
    for pattern in (name, "graftbox-bundle"):
        found = dockerd("images", "--format", "{{.Repository}}:{{.Tag}}", pattern).split()
        if found:
            dockerd("rmi", "--force", *found, check=False)


def shown(dockerd: Docker, image: str) -> Any:
    return json.loads(dockerd("image", "inspect", image))[0]


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_docker_builds_the_copy_with_both_builders(
    buildkit: str,
    base: str,
    built: Bundle,
    repository: str,
    dockerd: Docker,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = shutil.which("docker", path="/usr/bin") or shutil.which("docker")
    assert client is not None
    # Debian's own client has both builders without a plug-in.
    monkeypatch.setenv("PATH", f"{Path(client).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_BUILDKIT", buildkit)
    wanted = Wanted(
        base, Access(), "copy", repository=repository, user="7", extra_deps="echo '$HOME' > /made"
    )
    made = make(wanted, store)
    config = shown(dockerd, made.image)["Config"]
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == (list(SERVER), None, "7")
    assert config["Labels"][BASE_NAME] == base
    assert dockerd("run", "--rm", "--entrypoint", "cat", made.image, "/made") == "$HOME"
    listed = dockerd("run", "--rm", "--entrypoint", "ls", made.image, "-ldn", "/openhands/core")
    assert listed.split()[2:4] == ["0", "0"]
    assert [shown(dockerd, f"{repository}:{tag}")["Id"] for tag in made.tags] == [
        shown(dockerd, made.image)["Id"]
    ] * 3
    assert make(wanted, store).status == "present"
    assert make(dataclasses.replace(wanted, force=True), store).status == "made"


def test_a_graft_in_docker_has_the_tags_of_a_copy_and_the_layers_of_a_graft(
    base: str, built: Bundle, repository: str, dockerd: Docker, store: Store, tmp_path: Path
) -> None:
    made = make(Wanted(base, Access(), "graft", repository=repository), store)
    layers = shown(dockerd, made.image)["RootFS"]["Layers"]
    assert layers[1:] == [layer.diff_id for layer in built.layers]
    written = make(Wanted(base, Access(), "copy", folder=tmp_path / "c"), store)
    assert written.tags == made.tags
    report = graft_image(
        parse(base), parse(f"oci:{tmp_path / 'out'}:x"), {built.arch: built}, store, access=Access()
    )
    manifest = json.loads((tmp_path / "out/blobs/sha256" / report.digest[7:]).read_bytes())
    assert manifest["config"]["digest"] == shown(dockerd, made.image)["Id"]


def test_a_build_folder_builds_without_graftbox(
    base: str, built: Bundle, repository: str, dockerd: Docker, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "folder"
    assert runtime_build.main(["--base_image", base, "--build_folder", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("ghcr.io/openhands/runtime:oh_v")
    dockerd("build", "--quiet", "--tag", f"{repository}:folder", str(folder))
    layers = shown(dockerd, f"{repository}:folder")["RootFS"]["Layers"]
    assert len(layers) == 1 + len(built.layers)
    said = dockerd("run", "--rm", "--entrypoint", "ls", f"{repository}:folder", "/openhands")
    assert said.split() == ["core", "server"]


def test_a_copy_keeps_the_entrypoint_as_a_graft_does(
    base: str, built: Bundle, repository: str, dockerd: Docker, store: Store
) -> None:
    images = []
    for method in ("copy", "graft"):
        asked = Wanted(
            base, Access(), method, repository=f"{repository}-{method}", keep_entrypoint=True, user="7"
        )
        images.append(shown(dockerd, make(asked, store).image)["Config"])
        dockerd("rmi", "--force", *dockerd("images", "-q", asked.repository).split(), check=False)
    copied, grafted = images
    assert copied["Entrypoint"] == grafted["Entrypoint"]
    assert copied["Cmd"] == grafted["Cmd"]
    assert copied["User"] == grafted["User"] == "7"
    for name in BASE_LABELS:
        assert copied["Labels"][name] == grafted["Labels"][name]


def test_a_pushed_bundle_is_copied_from_its_registry(
    base: str,
    built: Bundle,
    bundle: Bundle,
    arm_bundle: Bundle,
    registry: Registry,
    repository: str,
    dockerd: Docker,
    store: Store,
) -> None:
    pushed = f"{registry.address}/ways/bundle:1"
    both = {"amd64": bundle, "arm64": arm_bundle}
    assert len(push_bundle(both, parse(pushed), store).platforms) == 2
    made = make(Wanted(base, Access(), "copy", repository=repository, bundle_image=pushed), store)
    said = dockerd("run", "--rm", "--entrypoint", "head", made.image, "-c", "10", "/openhands/server")
    assert said == f"server {built.arch}"[:10]
    dockerd("rmi", "--force", pushed, check=False)


def test_the_bundle_in_dockers_own_store(
    bundle: Bundle, arm_bundle: Bundle, repository: str, dockerd: Docker, store: Store
) -> None:
    both = {"amd64": bundle, "arm64": arm_bundle}
    report = push_bundle(both, parse(f"docker-daemon:{repository}:bundle"), store)
    found = shown(dockerd, f"{repository}:bundle")
    assert (found["Id"], found["Architecture"]) == (report.digest, machine_architecture())


def test_a_base_that_only_docker_has(
    base: str, built: Bundle, repository: str, dockerd: Docker, store: Store
) -> None:
    dockerd("pull", "--quiet", base)
    dockerd("tag", base, f"{repository}:base")
    reference = f"docker-daemon:{repository}:base"
    for method in ("copy", "graft"):
        made = make(Wanted(reference, Access(), method, repository=repository, force=True), store)
        assert shown(dockerd, made.image)["Config"]["Entrypoint"] == list(SERVER)


def test_an_install_without_apt_says_what_to_do(
    base: str, built: Bundle, repository: str, dockerd: Docker, store: Store, capfd: Any
) -> None:
    with pytest.raises(TransportError, match="docker build failed"):
        make(Wanted(base, Access(), "install", repository=repository), store)
    assert "needs apt-get" in capfd.readouterr().err


@pytest.fixture
def containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Storage of their own for Podman and Buildah."""
    with tempfile.TemporaryDirectory(prefix="st") as state:
        config = tmp_path / "storage.conf"
        config.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/storage"\nrunroot = "{state}"\n'
        )
        monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(config))
        yield config


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_podman_and_buildah(
    engine: str, base: str, built: Bundle, store: Store, containers: Path, tmp_path: Path
) -> None:
    binary = program(engine)
    wanted = Wanted(base, Access(), "copy", engine=engine, options=("--tls-verify=false",))
    copied = make(wanted, store)
    assert copied.image.startswith("localhost/graftbox-runtime:oh_v")
    assert make(wanted, store).status == "present"
    grafted = make(dataclasses.replace(wanted, method="graft", force=True), store)
    assert grafted.image == copied.image
    done = subprocess.run(
        [binary, "inspect", "--type", "image", f"localhost/graftbox-runtime:{grafted.tags[2]}"],
        capture_output=True,
        text=True,
        check=True,
    )
    for layer in built.layers:
        assert layer.diff_id in done.stdout

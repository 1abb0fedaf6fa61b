"""Images whose bundle is one layer and the server's, in a real registry, run by Docker and podman."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration import bases
from tests.integration.conftest import Docker, Registry
from tests.integration.test_bundle_push import PYTHON, graftbox

from graftbox.image.place import DEEPEST

COMPONENTS = ("--component", "mcp")
"""Beside core, which is in every bundle: the smallest one."""
BUNDLE = ("--arch", bases.ARCH, *COMPONENTS)
PLAIN = ("--quiet", "--src-tls-verify=false", "--dest-tls-verify=false")
ALIVE = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:60000/alive').status)"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def base(registry: Registry, skopeo: Callable[..., str]) -> str:
    name = f"{registry.address}/merged/base:1"
    skopeo("copy", *PLAIN, bases.reference("busybox"), f"docker://{name}")
    return name


@pytest.fixture(scope="module")
def merged(registry: Registry, base: str) -> str:
    """A runtime image with a merged bundle."""
    name = f"{registry.address}/merged/run:1"
    graftbox("graft", base, name, *COMPONENTS, "--merge")
    return name


def layers(skopeo: Callable[..., str], name: str) -> list[str]:
    found = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}"))
    return [layer["digest"] for layer in found["layers"]]


def test_a_merged_bundle_is_whole_and_proved(
    merged: str, base: str, registry: Registry, skopeo: Callable[..., str]
) -> None:
    built = graftbox("bundle", "build", *BUNDLE, "--merge")
    assert [layer["name"] for layer in built["components"]] == ["components", "server"]
    assert graftbox("bundle", "verify", *BUNDLE, "--merge")["ok"]
    ours = [layer["digest"] for layer in built["components"]]
    assert layers(skopeo, merged) == [*layers(skopeo, base), *ours]
    assert graftbox("verify", merged, "--layers")["ok"]
    apart = f"{registry.address}/merged/apart:1"
    graftbox("graft", base, apart, *COMPONENTS)
    assert len(layers(skopeo, apart)) == len(layers(skopeo, merged)) + 1
    assert layers(skopeo, apart)[-1] == ours[-1]
    tags = [graftbox("tags", base, *COMPONENTS, *more) for more in ((), ("--merge",))]
    assert tags[0]["lock"] != tags[1]["lock"]
    assert tags[0]["source"] != tags[1]["source"]
    assert (
        graftbox("graft", merged, apart, *COMPONENTS)["digest"]
        != graftbox("graft", merged, merged, *COMPONENTS, "--merge")["digest"]
    )
    assert len(layers(skopeo, apart)) == len(layers(skopeo, merged)) + 1


def test_docker_starts_a_sandbox_of_it(merged: str, dockerd: Docker) -> None:
    container = dockerd("run", "--detach", "--network=none", merged).splitlines()[-1]
    try:
        deadline = time.monotonic() + PATIENCE
        while dockerd("exec", container, PYTHON, "-c", ALIVE, check=False) != "200":
            assert time.monotonic() < deadline, dockerd("logs", container)
            time.sleep(0.2)
        assert dockerd("exec", container, PYTHON, "-c", "import mcp; print(mcp.__name__)") == "mcp"
    finally:
        dockerd("rm", "--force", container)
        dockerd("rmi", "--force", merged, check=False)


def test_podman_finds_the_same_files(merged: str, podman: Callable[..., str], tmp_path: Path) -> None:
    podman("pull", "--quiet", "--tls-verify=false", merged)
    container = podman("create", merged).split()[-1]
    podman("export", "--output", str(tmp_path / "root.tar"), container)
    with tarfile.open(tmp_path / "root.tar") as archive:
        members = [member for member in archive if member.name.startswith("openhands/")]
    found = {member.name: (member.mode & 0o7777, member.size, member.linkname) for member in members}
    folder = Path(graftbox("bundle", "path", *BUNDLE)["path"]).parent
    expected = {}
    for path in folder.rglob("openhands/**/*"):
        facts = path.lstat()
        size = facts.st_size if path.is_file() and not path.is_symlink() else 0
        link = str(path.readlink()) if path.is_symlink() else ""
        expected[str(path.relative_to(folder))] = (facts.st_mode & 0o7777, size, link)
    assert found == expected


def many(layout: Any, count: int, name: str, skopeo: Callable[..., str]) -> str:
    """An image of so many layers in a registry."""
    layout.image(
        [{f"etc/{number}": str(number).encode()} for number in range(count)], arch=bases.ARCH, tag=str(count)
    )
    skopeo("copy", *PLAIN, f"oci:{layout.folder}:{count}", f"docker://{name}")
    return name


def test_a_base_of_many_layers_gets_a_merged_bundle_and_runs(
    registry: Registry, dockerd: Docker, skopeo: Callable[..., str], layout: Any
) -> None:
    base = many(layout, DEEPEST - 2, f"{registry.address}/merged/deep:1", skopeo)
    name = f"{registry.address}/merged/deep-run:1"
    report = graftbox("graft", base, name, *COMPONENTS)
    assert report["notes"] == []
    assert len(layers(skopeo, name)) == DEEPEST
    assert graftbox("verify", name)["ok"]
    try:
        words = ("--rm", "--network=none", "--entrypoint", PYTHON, name, "-c")
        code = f"import mcp; print(open('/etc/{DEEPEST - 3}').read())"
        assert dockerd("run", *words, code, timeout=300).splitlines()[-1] == str(DEEPEST - 3)
    finally:
        dockerd("rmi", "--force", name, check=False)


def test_more_layers_than_docker_takes_are_refused_in_words(
    registry: Registry, dockerd: Docker, skopeo: Callable[..., str], layout: Any
) -> None:
    base = many(layout, DEEPEST, f"{registry.address}/merged/deepest:1", skopeo)
    report = graftbox("graft", base, f"{registry.address}/merged/too-deep:1", *COMPONENTS)
    (note,) = report["notes"]
    assert f"has {DEEPEST + 2} layers; Docker's own store takes {DEEPEST}" in note
    dockerd("pull", "--quiet", base, timeout=300)  # the most that it takes
    target = f"docker-daemon:graftbox-test-{os.getpid()}:1"
    try:
        command = [sys.executable, "-c", "from graftbox.cli.app import main; main()"]
        done = subprocess.run(
            [*command, "graft", f"docker-daemon:{base}", target, *COMPONENTS],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 1
        assert f"takes no image of {DEEPEST + 2} layers (max depth exceeded)" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        dockerd("rmi", "--force", base, check=False)

"""The bundle's own image in a real registry, as Docker and podman use it: layers, volumes, other bases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration import bases
from tests.integration.conftest import Docker, Registry

CORE = ("--arch", bases.ARCH, "--component", "core")
PYTHON = "/openhands/bin/oh-python"


def graftbox(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-c", "from graftbox.cli.app import main; main()", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout)
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture(scope="module")
def pushed(registry: Registry) -> str:
    """The bundle's image in a registry."""
    name = f"{registry.address}/team/bundle:1"
    graftbox("bundle", "push", name, *CORE)
    return name


def test_pushing_again_sends_nothing(pushed: str, skopeo: Callable[..., str]) -> None:
    report = graftbox("bundle", "push", pushed, *CORE, "--tag", "more")
    assert (report["layers_sent"], report["bytes_sent"]) == (0, 0)
    shown = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{pushed}"))
    assert shown["Digest"] == report["digest"]
    assert "more" in shown["RepoTags"]


def test_a_docker_volume_of_it_makes_a_sandbox_of_an_untouched_image(
    pushed: str, dockerd: Docker, registry: Registry, skopeo: Callable[..., str]
) -> None:
    base = f"{registry.address}/base/busybox:1"
    skopeo("copy", "--quiet", "--dest-tls-verify=false", bases.reference("busybox"), f"docker://{base}")
    volume = f"graftbox-test-{os.getpid()}"
    try:
        container = dockerd("create", "--volume", f"{volume}:/openhands", pushed).splitlines()[-1]
        dockerd("rm", container)
        mount = ["--rm", "--network=none", "--volume", f"{volume}:/openhands:ro", base]
        assert dockerd("run", *mount, PYTHON, "-c", "print(6 * 7)") == "42"
        assert "bin" in dockerd("run", *mount, "ls", "/openhands")
    finally:
        dockerd("volume", "rm", "--force", volume)
        dockerd("rmi", "--force", pushed, base, check=False)

"""The published OpenHands client against our server: by its HTTP client, and by its own DockerRuntime.

The steps are in openhands/client.py, which runs in an environment of its own with openhands-ai 0.62.0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.bases import reference
from tests.integration.conftest import Docker, missing

HERE = Path(__file__).parent / "openhands"
GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
IMAGE = "graft-test/openhands:1"
Results = dict[str, str]


def steps() -> list[str]:
    """The names of the steps, without importing what only the other environment has."""
    lines = (HERE / "client.py").read_text().splitlines()
    return [line.split()[1].partition("(")[0] for line in lines if line.startswith("    def t")]


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter of the environment with openhands-ai."""
    done = subprocess.run([HERE / "install.sh"], capture_output=True, text=True, timeout=900)
    if done.returncode:
        missing(f"openhands-ai 0.62.0 ({done.stderr.strip()[-500:]})")
    return done.stdout.strip()


def drive(python: str, *words: str, env: dict[str, str] | None = None) -> Results:
    """What went wrong in each step; empty where nothing did."""
    done = subprocess.run(
        [python, str(HERE / "client.py"), *words],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, **(env or {})},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"step"')]
    assert lines, done.stderr[-3000:]
    return {line["step"]: line["wrong"] for line in lines}


@pytest.fixture(scope="module")
def runtime_image(dockerd: Docker) -> Iterator[str]:
    """A runtime image of a base with Python, git and sudo, in the daemon."""
    command = [GRAFTBOX, "graft", reference("workshop"), f"docker-daemon:{IMAGE}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    yield IMAGE
    dockerd("rmi", "--force", IMAGE)


@pytest.fixture(scope="module")
def by_http(python: str) -> Results:
    """Their ActionExecutionClient on a sandbox of ours."""
    command = [GRAFTBOX, "run", "--engine", "embedded", "--detach", "--json", "--workdir", "/workspace"]
    done = subprocess.run([*command, reference("workshop")], check=True, capture_output=True, text=True)
    sandbox = json.loads(done.stdout)
    try:
        return drive(python, "connect", sandbox["url"], sandbox["key"], "/workspace", "root")
    finally:
        subprocess.run([GRAFTBOX, "rm", "-f", sandbox["name"]], check=True, capture_output=True)


@pytest.fixture(scope="module", params=["openhands", "root"])
def by_docker(request: pytest.FixtureRequest, python: str, runtime_image: str, dockerd: Docker) -> Results:
    """Their DockerRuntime, unmodified, with a folder of this machine as the workspace.

    Actions run as root, or as the user openhands, who is not in the image.
    """
    return drive(python, "docker", runtime_image, request.param, env={"DOCKER_HOST": dockerd.host})


@pytest.mark.parametrize("step", steps())
def test_their_http_client(step: str, by_http: Results) -> None:
    assert by_http[step] == ""


@pytest.mark.parametrize("step", steps())
def test_their_docker_runtime(step: str, by_docker: Results) -> None:
    assert by_docker[step] == ""

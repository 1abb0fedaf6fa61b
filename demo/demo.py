"""The main job, shown on something real: an image is grafted, started without a daemon, and worked in."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo import debian_base

from graftbox.errors import GraftboxError

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
REGISTRY_BASE = "docker.io/library/debian:stable-slim"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="graftbox-demo-") as name:
        folder = Path(name)
        start = time.perf_counter()
        bundle = report("bundle", "build", "--json")
        size = sum(layer["compressed_size"] for layer in bundle["components"]) / 1e6
        say(f"bundle ready ({size:.1f} MB compressed)", start)
        base = choose_base(folder)

        start = time.perf_counter()
        grafted = report("graft", base, f"oci:{folder}/runtime:demo", "--json")
        say(f"grafted: {grafted['digest'][:19]}… in {grafted['seconds'] * 1000:.1f} ms of work", start)

        start = time.perf_counter()
        sandbox = report("run", f"oci:{folder}/runtime:demo", "--engine", "embedded", "--detach", "--json")
        try:
            say(f"sandbox {sandbox['name']} alive at {sandbox['url']}, without a daemon", start)
            actions(sandbox)
        finally:
            subprocess.run([GRAFTBOX, "rm", "-f", sandbox["name"]], check=True, stdout=subprocess.DEVNULL)
        compare(base, folder)
        print("\nEverything the demo started is gone; the bundle stays cached for the next run.")


def choose_base(folder: Path) -> str:
    """A registry's image where one answers within seconds, else one made from packages."""
    start = time.perf_counter()
    try:
        probe = subprocess.run(
            [GRAFTBOX, "doctor", REGISTRY_BASE, "--quick"], capture_output=True, timeout=10
        )
        reachable = probe.returncode == 0
    except subprocess.TimeoutExpired:
        reachable = False
    if reachable:
        say(f"base image: {REGISTRY_BASE}", start)
        return REGISTRY_BASE
    base: str = debian_base.make(folder, ARCHITECTURES[platform.machine()])
    say("base image: made from Debian packages, as no image registry answers here", start)
    return base


def actions(sandbox: dict[str, Any]) -> None:
    """A few actions over HTTP, each with its answer and how long it took."""
    from graftbox.sandbox.client import Client

    with Client(sandbox["url"], sandbox["key"]) as client:
        for command in (
            "echo $GREETING; cd /tmp",
            "pwd; . /etc/os-release; echo $PRETTY_NAME",
            "/openhands/bin/oh-git --version",
            "for n in 1 2 3; do echo line $n; done",
            "false",
        ):
            start = time.perf_counter()
            result = client.run(command)
            seconds = time.perf_counter() - start
            print(f"    $ {command}")
            for line in result.output.splitlines():
                print(f"      {line}")
            print(f"      exit code {result.exit_code}, {seconds * 1000:.1f} ms")


def compare(base: str, folder: Path) -> None:
    """The same image by `docker build`, where a Docker engine runs.

    A registry's Debian image gets the traditional in-image install. The one made from packages has no
    package manager, so it gets the best that Docker offers, `COPY --from`.
    """
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        print("  (no Docker engine runs here, so there is no traditional way to compare with)")
        return
    images = ["graftbox-demo-built:1"]
    if base == REGISTRY_BASE:
        way = "an in-image install by apt"
        dockerfile = (
            f"FROM {base}\nRUN apt-get update && apt-get install -y --no-install-recommends "
            "ca-certificates git python3-pip python3-uvicorn python3-starlette ripgrep tmux\n"
        )
    else:
        way = "COPY --from of the same folder"
        images.append("graftbox-demo-grafted:1")
        grafted = [GRAFTBOX, "graft", base, f"docker-daemon:{images[1]}"]
        subprocess.run(grafted, check=True, capture_output=True)
        dockerfile = (
            f"FROM scratch\nCOPY --from={images[1]} / /\nCOPY --from={images[1]} /openhands /openhands\n"
        )
    (folder / "Dockerfile").write_text(dockerfile)
    start = time.perf_counter()
    command = ["docker", "build", "-q", "--no-cache", "--network", "host", "-t", images[0], "-f"]
    built = subprocess.run([*command, folder / "Dockerfile", folder], capture_output=True, text=True)
    if built.returncode:
        print(f"  (the comparison by `docker build` failed: {built.stderr.strip()[-200:]})")
    else:
        say(f"for comparison, `docker build` with {way}", start)
    subprocess.run(["docker", "rmi", "-f", *images], capture_output=True)


def report(*arguments: str) -> dict[str, Any]:
    """What a graftbox command prints as JSON; its messages go through to the terminal."""
    done = subprocess.run([GRAFTBOX, *arguments], check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def say(what: str, start: float) -> None:
    print(f"  {time.perf_counter() - start:7.2f} s  {what}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except GraftboxError as error:
        sys.exit(f"demo: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo: `graftbox {error.cmd[1]}` failed; its message is above.")

"""The main job, shown on something real: three images that have nothing in common become sandboxes.

Each is grafted, started without a daemon, and worked in: a shell, a Jupyter cell, a file that is edited, a
page in a browser, VS Code. What stays is in ``build/demo``: the images and the pictures of the page.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import images

from graftbox.errors import GraftboxError

GRAFTBOX = ".venv/bin/graftbox"
PLACE = Path("build/demo")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ALPINE, DEBIAN = "docker.io/library/alpine:3", "docker.io/library/debian:bullseye-slim"


@dataclass(frozen=True)
class Base:
    """An image to work in, and what to ask its own shell to see what it is."""

    name: str
    title: str
    image: str
    command: str


def main() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    with timed("the bundle /openhands, one for all images: {} MB of compressed layers") as facts:
        bundle = report("bundle", "build", "--json")
        facts.append(f"{sum(layer['compressed_size'] for layer in bundle['components']) / 1e6:.0f}")
        report("bundle", "path", "--json")  # unpacked
    with timed("three base images{}") as facts:
        bases, remark = choose_bases()
        facts.append(remark)
    for base in bases:
        show(base)
    compare(bases[1].image)
    print(
        f"\nThe sandboxes are gone; the images and the pages' pictures are in {PLACE}. Go on by yourself:\n\n"
        f"  {GRAFTBOX} run {bases[0].image} -- 'ldd; /openhands/bin/oh-git --version'\n"
        f"  {GRAFTBOX} run {bases[0].image} --detach"
    )


def choose_bases() -> tuple[list[Base], str]:
    """A registry's images where one answers within seconds, else two of packages; and the empty one."""
    if registry_answers():
        remark, musl, old = f": {ALPINE}, {DEBIAN}, scratch", ALPINE, DEBIAN
    else:
        remark = ", two of them made of Debian's packages, as no image registry answers here"
        arch = ARCHITECTURES[platform.machine()]
        musl = images.make(PLACE, arch, "musl", images.MUSL_LINKS)
        try:
            old = images.make(PLACE, arch, "bullseye")
        except subprocess.CalledProcessError:  # the mirror no longer has it
            old = images.make(PLACE, arch)
    release = "grep PRETTY /etc/os-release; ls --version | head -1"
    return [
        Base("musl", "An image like Alpine: musl and busybox", musl, "ldd 2>&1 | head -2"),
        Base("debian", "An image of old Debian", old, release),
        Base("empty", "The empty image: all there is comes with the sandbox", "scratch", "echo /* /etc/*"),
    ], remark


def registry_answers() -> bool:
    try:
        probe = subprocess.run([GRAFTBOX, "doctor", ALPINE, "--quick"], capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def show(base: Base) -> None:
    """Grafts the image, starts it and works in it; the sandbox is deleted in the end."""
    print(f"\n{base.title}")
    with timed("grafted, for any engine or registry, by a manifest and a config of {} bytes") as facts:
        grafted = report("graft", base.image, f"oci:{PLACE}/grafted:{base.name}", "--json")
        facts.append(f"{grafted['bytes_sent']:,}")
    with timed("started here without a daemon{}, the bundle mounted beside it: {}") as facts:
        sandbox = report("run", base.image, "--engine", "embedded", "--detach", "--json")
        facts += ["" if os.geteuid() == 0 else " or root", sandbox["url"]]
    try:
        work(base, sandbox)
    finally:
        subprocess.run([GRAFTBOX, "rm", "-f", sandbox["name"]], check=True, stdout=subprocess.DEVNULL)


def work(base: Base, sandbox: dict[str, Any]) -> None:
    """What an agent does all day, each with its answer and how long it took."""
    for command in (base.command, "cd /tmp && false", "echo $? $PWD; /openhands/bin/oh-git --version"):
        with timed("$ {}{}") as facts:
            answer = act(sandbox, "run", command=command)
            facts += [command, indented(answer["content"])]
    with timed(">>> {}   (and the start of its kernel){}") as facts:
        code = "import sys; sys.version.split()[0], sum(range(10**6))"
        answer = act(sandbox, "run_ipython", code=code)
        facts += [code, indented(answer["content"].partition("\n[Jupyter")[0])]
    page = "/tmp/site/index.html"
    style = "font: 72px sans-serif; color: white; background: linear-gradient(45deg, teal, indigo)"
    content = f"<body style='{style}'>\n<h1>Helo</h1>\n<p>{base.title}</p>\n"
    act(sandbox, "write", path=page, content=content)
    with timed("edited a file:{}") as facts:
        answer = act(sandbox, "edit", path=page, command="str_replace", old_str="Helo", new_str="Hello")
        changed = (line for line in answer["extras"]["diff"].splitlines()[2:] if line[:1] in "+-")
        facts.append(indented("\n".join(changed)))
    with timed("looked at it in Chromium: {}") as facts:
        answer = act(sandbox, "browse", url=page)
        picture = PLACE / f"{base.name}.png"
        picture.write_bytes(base64.b64decode(answer["extras"]["screenshot"].partition(",")[2]))
        facts.append(str(picture))
    with timed("VS Code answers{}") as facts:
        plugin = ask(sandbox, "POST", "/v1/plugins/vscode/start?wait=60")
        with urllib.request.urlopen(sandbox["url"] + plugin["link"], timeout=60) as first:
            facts.append(f" {first.status}: {sandbox['url']}{plugin['path']}?tkn=…")


def compare(base: str) -> None:
    """The same image by `docker build`, where a Docker engine runs.

    A registry's Debian image gets the traditional in-image install. The one made from packages has no
    package manager, so it gets the best that Docker offers, `COPY --from`.
    """
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        print("\n(No Docker engine runs here, so the same by `docker build` is not shown.)")
        return
    tags = ["graftbox-demo-built:1"]
    if base == DEBIAN:
        way = "an in-image install by apt"
        dockerfile = (
            f"FROM {base}\nRUN apt-get update && apt-get install -y --no-install-recommends "
            "ca-certificates git python3-pip python3-uvicorn python3-starlette ripgrep tmux\n"
        )
    else:
        way = "COPY --from of the same folder"
        tags.append("graftbox-demo-grafted:1")
        grafted = [GRAFTBOX, "graft", base, f"docker-daemon:{tags[1]}"]
        subprocess.run(grafted, check=True, capture_output=True)
        dockerfile = f"FROM scratch\nCOPY --from={tags[1]} / /\nCOPY --from={tags[1]} /openhands /openhands\n"
    print("\nFor comparison")
    with timed("`docker build` with {}") as facts:
        command = ["docker", "build", "-q", "--no-cache", "--network", "host", "-t", tags[0], "-f"]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Dockerfile").write_text(dockerfile)
            command += [f"{folder}/Dockerfile", folder]
            built = subprocess.run(command, capture_output=True, text=True)
        facts.append(way if not built.returncode else f"{way} failed: {built.stderr.strip()[-200:]}")
    subprocess.run(["docker", "rmi", "-f", *tags], capture_output=True)


def report(*arguments: str) -> Any:
    """What a graftbox command prints as JSON; its messages go through to the terminal."""
    done = subprocess.run([GRAFTBOX, *arguments], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def act(sandbox: dict[str, Any], kind: str, **args: Any) -> Any:
    """One action and its observation, in the protocol of the OpenHands action execution server."""
    return ask(sandbox, "POST", "/execute_action", {"action": {"action": kind, "args": args}})


def ask(sandbox: dict[str, Any], method: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"X-Session-API-Key": sandbox["key"], "Content-Type": "application/json"}
    request = urllib.request.Request(sandbox["url"] + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@contextmanager
def timed(what: str) -> Iterator[list[str]]:
    """Prints how long the block took and ``what``, with the facts that the block has added."""
    facts: list[str] = []
    start = time.perf_counter()
    yield facts
    print(f"{time.perf_counter() - start:9.3f} s  {what.format(*facts)}", flush=True)


def indented(text: str) -> str:
    """The text as lines of their own, below what was done."""
    return "".join(f"\n{'':15}{line}" for line in text.strip().splitlines())


if __name__ == "__main__":
    try:
        main()
    except (GraftboxError, urllib.error.URLError) as error:
        sys.exit(f"demo: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"demo: `graftbox {error.cmd[1]}` failed; its message is above.")

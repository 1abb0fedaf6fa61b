"""Grafting side by side with what Docker offers for it: a build with `COPY --from`, and a push."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Figure, interleaved, timed
from graftbox.bundle import build
from graftbox.cli.graft import as_image_bundle
from graftbox.image.place import graft_image
from graftbox.image.reference import parse
from graftbox.store import Store

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
GRAFTS = 30
COMMANDS = 15
BUILDS = 3


def figures(registry: str, base: Path) -> list[Figure]:
    """Seconds per image, each onto a base that was never grafted before, or with a user that it never had.

    ``registry`` is ``host:port`` of an empty local registry; ``base`` an OCI layout; a Docker daemon runs.
    """
    store = Store()
    manifest = build.current(store=store)
    assert manifest is not None, "build the bundle first"
    bundles = {manifest.arch: as_image_bundle(manifest)}

    def graft(source: str, target: str, user: str | None = None) -> None:
        graft_image(parse(source), parse(target), bundles, store, user=user)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        layout, remote = f"oci:{base}", f"docker://{registry}/base:1"
        graft("scratch", f"docker://{registry}/bundle:1")
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", layout, remote], check=True)
        number = itertools.count()
        into_layout, into_registry = interleaved(
            [
                lambda: timed(lambda: graft(layout, f"oci:{work}/out:{next(number)}")),
                lambda: timed(lambda: graft(remote, f"docker://{registry}/grafted/{next(number)}:1")),
            ],
            GRAFTS,
        )
        _docker("pull", "-q", f"{registry}/base:1")
        _docker("pull", "-q", f"{registry}/bundle:1")
        known, made = f"docker-daemon:{registry}/base:1", f"docker-daemon:{registry}/made:1"
        into_docker, by_command = interleaved(
            [
                lambda: timed(lambda: graft(known, made, str(next(number)))),
                lambda: timed(lambda: _command("graft", "--user", str(next(number)), known, made)),
            ],
            COMMANDS,
        )
        built, pushed = interleaved(
            [
                lambda: timed(lambda: _copy_from(registry, work, next(number))),
                lambda: timed(lambda: _docker("push", "-q", f"{registry}/built:1")),
            ],
            BUILDS,
            warmup=0,
        )
    return [
        Figure("graft into an OCI layout", "ms", _milliseconds(into_layout), 10),
        Figure("graft into a local registry, new repository", "ms", _milliseconds(into_registry), 50),
        Figure("graft into Docker, which has the layers", "ms", _milliseconds(into_docker), 150),
        Figure("the same as a command, `graftbox graft`", "ms", _milliseconds(by_command)),
        Figure("`docker build` with `COPY --from` of the same folder", "ms", _milliseconds(built)),
        Figure("`docker push` of that image", "ms", _milliseconds(pushed)),
    ]


def _copy_from(registry: str, work: Path, number: int) -> None:
    """One more base: the same file system with another label, so that nothing of the build is cached."""
    context = work / f"context{number}"
    context.mkdir()
    (context / "different").write_text(str(number))
    (context / "Dockerfile").write_text(
        f"FROM {registry}/base:1\nCOPY different /different\n"
        f"COPY --from={registry}/bundle:1 /openhands /openhands\n"
    )
    _docker("build", "-q", "-t", f"{registry}/built:1", str(context))


def _command(*arguments: str) -> None:
    subprocess.run([GRAFTBOX, *arguments], check=True, stdout=subprocess.DEVNULL)


def _docker(*arguments: str) -> None:
    """Debian's own client where it is there: it builds with BuildKit without needing a plug-in."""
    client = shutil.which("docker", path="/usr/bin") or "docker"
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    subprocess.run([client, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)


def _milliseconds(samples: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sample * 1000 for sample in samples)

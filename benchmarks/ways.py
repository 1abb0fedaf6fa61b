"""All ways to runtime images side by side: time, bytes sent to the registry, and disk, for 1 to 1,000 images.

Each way starts with an empty registry behind a relay that counts, and a Docker without builds. The bases are
distinct: one shared file system of busybox, and a small layer and label of each one's own. Commands are what
a user types, so the start of each program counts. What was not measured is extrapolated and marked ≈.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import make_tar
from tests.integration import bases
from tests.integration.conftest import Registry, running_docker, running_registry

from benchmarks.costs import COUNTS, Point, Result, line
from benchmarks.registry import plant
from benchmarks.relay import Relay, relay
from benchmarks.server import UnixConnection
from graftbox.image.platforms import machine_architecture

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
BUDGET = 25.0
"""Seconds after which a way that builds is not asked for one more image, if it has made three."""
BUNDLE = "graftbox-bench/bundle:1"
LEFT_OUT = (
    "`crane append`, which Debian has from forky on only",
    "the traditional installation inside of the image, which needs package mirrors inside of the build",
)


@dataclass(frozen=True)
class Stage:
    """Where one way is measured: its registry, reached through the relay, and folders."""

    registry: Registry
    relay: Relay
    bases: list[str]
    """References through the relay."""
    folder: Path
    """The way's own; what is in there counts as local disk."""
    bundle_tar: Path
    docker_root: Path

    def repo(self, name: str) -> str:
        return f"{self.relay.address}/{name}"


@dataclass(frozen=True)
class Way:
    """``make`` makes the images of the given numbers; ``image`` is the name of number 0 then.

    ``each`` says that they are asked for one by one; ``limit`` is how many are made at most.
    """

    what: str
    make: Callable[[Stage, range], None]
    image: Callable[[Stage], str]
    limit: int = 10
    each: bool = True
    prepare: Callable[[Stage], None] = lambda _: None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All ways' results, and the machine's load average before and after."""

    results: tuple[Result, ...]
    load: tuple[float, float]
    failed: tuple[str, ...] = ()
    """What did not work, and why; one that fails does not take the others with it."""


def comparison() -> Comparison:
    """Measures all ways, in a registry and a Docker of their own; takes some five minutes."""
    # Who has waited long enough gets what was measured until then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = os.getloadavg()[0]
    results: list[Result] = []
    failed: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graftbox-ways-")))
        # Always a private daemon: what it holds is deleted, and the disk it takes is measured.
        stack.enter_context(running_docker("--log-level=warn"))
        tar = _bundle_tar(folder)
        bases.busybox_layer(folder / "busybox.tar")
        _run(GRAFTBOX, "bundle", "push", f"docker-daemon:{BUNDLE}")
        for number, way in enumerate(WAYS):
            if not all(shutil.which(name) for name in way.needs):
                continue
            try:
                with _stage(folder / str(number), folder / "busybox.tar", tar, way.limit) as stage:
                    results.append(_measured(way, stage))
                print(results[-1].row(), file=sys.stderr, flush=True)
            except (AssertionError, OSError, RuntimeError) as error:
                failed.append(f"{way.what}: {' '.join(str(error).split())}")
                print(failed[-1], file=sys.stderr, flush=True)
            except KeyboardInterrupt:
                failed.append(f"{way.what} and what follows: interrupted")
                break
            shutil.rmtree(folder / str(number), ignore_errors=True)
    return Comparison(tuple(results), (before, os.getloadavg()[0]), tuple(failed))


def table(title: str, compared: Comparison) -> str:
    """Two Markdown tables: what one more image costs, and what 1 to 1,000 cost."""
    (before, after), results = compared.load, compared.results
    missing = [way.what for way in WAYS if not all(shutil.which(name) for name in way.needs)]
    left_out = [*LEFT_OUT, *(f"{what}, as it is not on this machine" for what in missing)]
    conditions = f"{os.cpu_count()} cores, load average {before:.1f} before and {after:.1f} after"
    lines = [
        f"### {title}: one more image after the first",
        "",
        line(["way", "images made", "time, median", "sent to the registry", "registry disk", "local disk"]),
        "|---|---|---|---|---|---|",
        *(result.row() for result in results),
        "",
        f"### {title}: time, sent to the registry, disk in registry and engine",
        "",
        line(["way", *(f"{count:,} image{'s' * (count > 1)}" for count in COUNTS)]),
        "|---|---|---|---|---|",
        *(result.totals() for result in results),
        "",
        f"≈ is extrapolated from the images made; the first image brings the bundle. {conditions}.",
        f"Left out: {'; '.join(left_out)}.",
        *(f"Failed: {what}" for what in compared.failed),
        "",
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def _stage(folder: Path, base: Path, bundle_tar: Path, count: int) -> Iterator[Stage]:
    """A registry with ``count`` bases, and Docker without other images than the bundle's."""
    own = folder / "own"
    own.mkdir(parents=True)
    root = subprocess.run(
        ["docker", "info", "--format", "{{.DockerRootDir}}"], check=True, capture_output=True, text=True
    )
    with running_registry(folder / "registry") as registry, relay(registry.address) as counting:
        planted = plant(registry, "base", count, base=base.read_bytes(), arch=machine_architecture())
        names = [name.replace(registry.address, counting.address) for name in planted]
        try:
            yield Stage(registry, counting, names, own, bundle_tar, Path(root.stdout.strip()))
        finally:
            _forget_images()
            # Buildah mounts its storage over itself, and leaves that.
            subprocess.run(["umount", "--lazy", own / "storage/overlay"], capture_output=True)


def _measured(way: Way, stage: Stage) -> Result:
    """Makes images until the limit, or the budget, and sees that the first one starts its server."""
    way.prepare(stage)
    result, total, made = Result(way.what), 0.0, 0
    zero = _now(stage)
    for end in (count for count in COUNTS if count <= way.limit):
        numbers = range(made, end)
        steps = [range(n, n + 1) for n in numbers] if way.each else [numbers]
        for step in steps:
            if way.each and total > BUDGET and made >= 3:
                break
            start = time.perf_counter()
            way.make(stage, step)
            took = time.perf_counter() - start
            total, made = total + took, made + len(step)
            result.seconds.extend([took / len(step)] * len(step))
        result.points.append(Point(made, total, 0, 0, 0) + _now(stage) + zero.times(-1))
        if made < end:
            break
    _starts(way.image(stage))
    return result


def _now(stage: Stage) -> Point:
    registry, local = _disk(stage.registry.root), _disk(stage.docker_root) + _disk(stage.folder)
    return Point(0, 0, stage.relay.sent, registry, local)


def _disk(folder: Path) -> int:
    """Bytes that a folder takes on disk; files that come and go meanwhile do not matter."""
    done = subprocess.run(["du", "-s", "--block-size=1", folder], capture_output=True, text=True)
    return int(done.stdout.split()[0])


def _starts(image: str) -> None:
    """Runs the image by Docker until it answers ``/alive``; raises TimeoutError if it does not."""
    name = f"graftbox-bench-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder:
        command = ["docker", "run", "-d", "--name", name, "-v", f"{folder}:/socket"]
        _run(*command, "-e", "GRAFTBOX_SOCKET=/socket/s", "-e", "GRAFTBOX_NO_AUTH=1", image)
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                with (
                    contextlib.suppress(OSError),
                    contextlib.closing(UnixConnection(Path(folder) / "s")) as connection,
                ):
                    connection.request("GET", "/alive")
                    if connection.getresponse().status == 200:
                        return
                time.sleep(0.02)
            raise TimeoutError(f"{image} did not answer /alive within 30 s")
        finally:
            _run("docker", "rm", "-f", name)


# --- the ways ---


def _graft(stage: Stage, numbers: range) -> None:
    for number in numbers:
        _run(GRAFTBOX, "graft", stage.bases[number], stage.repo(f"runtime:{number}"))


def _batch(stage: Stage, numbers: range) -> None:
    listed = "".join(stage.bases[number] + "\n" for number in numbers)
    output = _run(
        GRAFTBOX, "graft", "--from", "-", "--to-repo", stage.repo("batch"), "--jobs", "8", text=listed
    )
    outcomes = [json.loads(line) for line in output.splitlines()]
    assert [one["status"] for one in outcomes] == ["made"] * len(numbers)
    (stage.folder.parent / "image").write_text(outcomes[0]["image"])


def _into_docker(stage: Stage, numbers: range) -> None:
    for number in numbers:
        base = f"docker-daemon:graftbox-bench/base:{number}"
        _run(GRAFTBOX, "graft", base, f"docker-daemon:graftbox-bench/runtime:{number}")


def _docker_bases(distinct: bool) -> Callable[[Stage], None]:
    """Bases in Docker: ``distinct`` in their layers, or only in a label, so that all layers are shared."""

    def prepare(stage: Stage) -> None:
        common = (stage.folder.parent.parent / "busybox.tar").read_bytes()
        files, listing = {"common.tar": common}, []
        for number in range(10 if distinct else 100):
            own = make_tar({"etc/number": str(number if distinct else 0).encode()})
            config = {
                "architecture": machine_architecture(),
                "os": "linux",
                "config": {"Env": ["PATH=/usr/bin:/bin"], "Labels": {"number": str(number)}},
                "rootfs": {"type": "layers", "diff_ids": [_digest(common), _digest(own)]},
            }
            names = {"Config": f"{number}.json", "RepoTags": [f"graftbox-bench/base:{number}"]}
            listing.append({**names, "Layers": ["common.tar", f"{number}.tar"]})
            files |= {f"{number}.json": json.dumps(config).encode(), f"{number}.tar": own}
        files["manifest.json"] = json.dumps(listing).encode()
        archive = stage.folder.parent / "bases.tar"
        archive.write_bytes(make_tar(files))
        _run("docker", "load", "-q", "-i", str(archive))

    return prepare


def _built(buildkit: str) -> Callable[[Stage, range], None]:
    def make(stage: Stage, numbers: range) -> None:
        for number in numbers:
            name = stage.repo(f"built:{number}")
            _docker(buildkit, "build", "-q", "-t", name, "-", text=_dockerfile(stage, number, BUNDLE))
            _docker(buildkit, "push", "-q", name)

    return make


def _buildah_prepared(stage: Stage) -> None:
    pushed = f"{stage.registry.address}/bundle:1"
    _run(GRAFTBOX, "bundle", "push", pushed)
    _buildah(stage, "pull", "--tls-verify=false", pushed)


def _buildah_built(stage: Stage, numbers: range) -> None:
    for number in numbers:
        name = stage.repo(f"built:{number}")
        (stage.folder / "Dockerfile").write_text(
            _dockerfile(stage, number, f"{stage.registry.address}/bundle:1")
        )
        _buildah(stage, "bud", "-q", "--tls-verify=false", "-t", name, str(stage.folder.parent / "empty"))
        _buildah(stage, "push", "-q", "--tls-verify=false", name)


def _buildah(stage: Stage, command: str, *arguments: str) -> None:
    storage = ["--root", str(stage.folder / "storage"), "--runroot", str(stage.folder.parent / "run")]
    if command == "bud":
        arguments = ("-f", str(stage.folder / "Dockerfile"), *arguments)
        (stage.folder.parent / "empty").mkdir(exist_ok=True)
    _run("buildah", *storage, "--storage-driver", "overlay", command, *arguments)


def _umoci(stage: Stage, numbers: range) -> None:
    for number in numbers:
        image = f"{stage.folder}/layout:b{number}"
        _run(
            "skopeo",
            "copy",
            "-q",
            "--src-tls-verify=false",
            f"docker://{stage.bases[number]}",
            f"oci:{image}",
        )
        _run("umoci", "raw", "add-layer", "--image", image, str(stage.bundle_tar))
        entrypoint = "/openhands/bin/action-execution-server"
        _run("umoci", "config", "--image", image, "--config.entrypoint", entrypoint, "--clear", "config.cmd")
        target = f"docker://{stage.repo(f'umoci:{number}')}"
        _run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{image}", target)


WAYS = (
    Way("`graftbox graft`, one command per image", _graft, lambda s: s.repo("runtime:0"), 100),
    Way(
        "`graftbox graft --from`, 8 jobs",
        _batch,
        lambda s: (s.folder.parent / "image").read_text(),
        1000,
        each=False,
    ),
    Way(
        "`graftbox graft` into Docker, layers present",
        _into_docker,
        lambda _: "graftbox-bench/runtime:0",
        100,
        prepare=_docker_bases(distinct=False),
    ),
    Way(
        "`graftbox graft` into Docker, new layers in each base",
        _into_docker,
        lambda _: "graftbox-bench/runtime:0",
        prepare=_docker_bases(distinct=True),
    ),
    Way("`docker build` (classic) and push", _built("0"), lambda s: s.repo("built:0")),
    Way("`docker build` (BuildKit) and push", _built("1"), lambda s: s.repo("built:0")),
    Way(
        "`buildah bud` and push",
        _buildah_built,
        lambda s: s.repo("built:0"),
        prepare=_buildah_prepared,
        needs=("buildah",),
    ),
    Way(
        "`umoci raw add-layer`, `skopeo copy`",
        _umoci,
        lambda s: s.repo("umoci:0"),
        needs=("umoci", "skopeo"),
    ),
)


# --- programs and numbers ---


def _bundle_tar(folder: Path) -> Path:
    tree = Path(_run(GRAFTBOX, "bundle", "path").strip())
    owner = ["--owner=0", "--group=0", "--numeric-owner"]
    _run("tar", *owner, "-C", str(tree.parent), "-cf", str(folder / "bundle.tar"), tree.name)
    return folder / "bundle.tar"


def _dockerfile(stage: Stage, number: int, bundle: str) -> str:
    """What `graftbox dockerfile` prints for this base, without starting it each time."""
    once = stage.folder.parent / "Dockerfile"
    if not once.exists():
        once.write_text(_run(GRAFTBOX, "dockerfile", "--bundle-image", bundle, stage.bases[0]))
    return once.read_text().replace(stage.bases[0], stage.bases[number])


def _forget_images() -> None:
    listed = _run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    if others := [name for name in listed if name != BUNDLE]:
        subprocess.run(["docker", "rmi", "-f", *others], capture_output=True)
    for buildkit, what in (("0", "image"), ("1", "builder")):
        _docker(buildkit, what, "prune", "-f")


def _docker(buildkit: str, *arguments: str, text: str = "") -> None:
    """Debian's own client where it is there: it has both builders without a plug-in."""
    client = shutil.which("docker", path="/usr/bin") or "docker"
    _run(client, *arguments, text=text, env={**os.environ, "DOCKER_BUILDKIT": buildkit})


def _run(*command: str, text: str = "", env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr[-2000:]}")
    return done.stdout


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


if __name__ == "__main__":
    print(table("The ways", comparison()))

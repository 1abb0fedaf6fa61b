"""All ways to runtime images side by side: time, bytes sent to the registry, and disk, for 1 to 1,000 images.

Each way starts with an empty registry behind a relay that counts, and a Docker without builds. The bases are
distinct: one shared file system of busybox, and a small layer and label of each one's own. Commands are what
a user types, so the start of each program counts. What was not measured is extrapolated and marked ≈.

Each way's result is printed and kept in a file as soon as it is there. After an interruption the table has
what was measured until then, and `--resume` goes on with the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.integration.conftest import running_docker, running_registry

from benchmarks.candidates import BUNDLE, GRAFTBOX, WAYS, Stage, Way, docker, program, run
from benchmarks.costs import COUNTS, Point, Result, line
from benchmarks.planted import plant
from benchmarks.relay import relay
from benchmarks.server import UnixConnection
from graftbox.image.platforms import machine_architecture

KEPT = Path(__file__).parents[1] / "build/ways.json"
"""The results of the last run, for `--resume`."""
BUDGET = 20.0
"""Seconds after which a way is not asked for one more image; without the first, which brings the bundle."""


@dataclass(frozen=True)
class Comparison:
    """All ways' results, and the machine's load averages before and after each."""

    results: tuple[Result, ...]
    loads: tuple[float, ...]
    failed: tuple[str, ...] = ()
    """What did not work, and why; one that fails does not take the others with it."""
    left: tuple[str, ...] = ()
    """What an interruption left unmeasured."""

    def keep(self) -> None:
        """For a later `--resume`."""
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.with_suffix(".new").write_text(json.dumps(asdict(self)))
        KEPT.with_suffix(".new").replace(KEPT)

    @classmethod
    def kept(cls) -> Comparison:
        """The results that were kept; none, if there are none."""
        if not KEPT.exists():
            return cls((), ())
        facts = json.loads(KEPT.read_text())
        results = [
            Result(one["what"], [Point(**point) for point in one["points"]], one["seconds"])
            for one in facts["results"]
        ]
        return cls(tuple(results), tuple(facts["loads"]))


def comparison(resume: bool = False) -> Comparison:
    """Measures all ways, in a registry and a Docker of their own; takes less than ten minutes where idle.

    With ``resume``, only those of which there is no result yet.
    """
    # Who has waited long enough gets what was measured until then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    earlier = Comparison.kept() if resume else Comparison((), ())
    results = {result.what: result for result in earlier.results}
    loads, failed = [*earlier.loads, os.getloadavg()[0]], list[str]()
    waiting = [way for way in WAYS if way.what not in results and not _lacking(way)]

    def compared() -> Comparison:
        ordered = [results[way.what] for way in WAYS if way.what in results]
        left = [way.what for way in waiting]
        return Comparison(tuple(ordered), tuple(loads), tuple(failed), tuple(left))

    with _interruptible(), contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graftbox-ways-")))
        # Always a private daemon: what it holds is deleted, and the disk it takes is measured.
        stack.enter_context(running_docker("--log-level=warn"))
        tar = _bundle_tar(folder)
        run(GRAFTBOX, "bundle", "push", f"docker-daemon:{BUNDLE}")
        while waiting:
            way, place = waiting[0], folder / str(len(waiting))
            try:
                with _stage(place, way, tar) as stage:
                    results[way.what] = _measured(way, stage)
                _say(results[way.what].row())
            except KeyboardInterrupt:
                _say(f"interrupted in {way.what}; what it has made is being deleted")
                raise
            except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                failed.append(f"{way.what}: {' '.join(str(error).split())}")
                _say(failed[-1])
            shutil.rmtree(place, ignore_errors=True)
            loads.append(os.getloadavg()[0])
            del waiting[0]
            compared().keep()
    return compared()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted; go on with --resume")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _lacking(way: Way) -> list[str]:
    """The programs that it needs and that are not here."""
    return [name for name in way.needs if not program(name)]


def table(title: str, compared: Comparison) -> str:
    """Two Markdown tables: what one more image costs, and what 1 to 1,000 cost."""
    results = compared.results
    low, high = min(compared.loads), max(compared.loads)
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
        "≈ was not measured: it is the images made, and for each further one what one more cost.",
        f"The first image brings the bundle. {os.cpu_count()} cores, load average {low:.1f} to {high:.1f}.",
        *(
            f"Left out: {way.what}, because {', '.join(lacking)} is not here."
            for way in WAYS
            if (lacking := _lacking(way))
        ),
        *(f"Failed: {what}" for what in compared.failed),
        *(f"Not measured yet (`--resume`): {what}" for what in compared.left),
        "",
    ]
    return "\n".join(lines)


@contextlib.contextmanager
def _stage(folder: Path, way: Way, bundle_tar: Path) -> Iterator[Stage]:
    """A registry with the way's bases, and Docker without other images than the bundle's."""
    own = folder / "own"
    own.mkdir(parents=True)
    way.base(folder / "base.tar")
    root = subprocess.run(
        ["docker", "info", "--format", "{{.DockerRootDir}}"], check=True, capture_output=True, text=True
    )
    with running_registry(folder / "registry") as registry, relay(registry.address) as counting:
        common = (folder / "base.tar").read_bytes()
        planted = plant(registry, "base", way.limit, base=common, arch=machine_architecture())
        names = [name.replace(registry.address, counting.address) for name in planted]
        try:
            yield Stage(registry, counting, names, own, bundle_tar, Path(root.stdout.strip()))
        finally:
            # After an interruption Docker may be gone, and what counts is what is being raised.
            with contextlib.suppress(RuntimeError, OSError, subprocess.SubprocessError):
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
            if way.each and sum(result.seconds[1:]) > BUDGET:
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
        run(*command, "-e", "GRAFTBOX_SOCKET=/socket/s", "-e", "GRAFTBOX_NO_AUTH=1", image)
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
            run("docker", "rm", "-f", name)


def _bundle_tar(folder: Path) -> Path:
    tree = Path(run(GRAFTBOX, "bundle", "path").strip())
    owner = ["--owner=0", "--group=0", "--numeric-owner"]
    run("tar", *owner, "-C", str(tree.parent), "-cf", str(folder / "bundle.tar"), tree.name)
    return folder / "bundle.tar"


def _forget_images() -> None:
    listed = run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    if others := [name for name in listed if name != BUNDLE]:
        subprocess.run(["docker", "rmi", "-f", *others], capture_output=True)
    for buildkit, what in (("0", "image"), ("1", "builder")):
        docker(buildkit, what, "prune", "-f")


def main(arguments: Sequence[str]) -> None:
    print(table("The ways", comparison("--resume" in arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The ways to runtime images: what a user types for each."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import make_tar
from tests.integration import bases, judges
from tests.integration.conftest import Registry

from benchmarks.relay import Relay
from graftbox.image.platforms import machine_architecture

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
PATIENCE = 600.0
"""Seconds for one command."""
BUNDLE = "graftbox-bench/bundle:1"


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
    base: Callable[[Path], None] = bases.busybox_layer
    """Writes the tar that all bases have in common."""


def program(name: str) -> str | None:
    """Its path: the machine's own, or one that the tests can fetch."""
    if (path := shutil.which(name)) or name not in judges.NAMES:
        return path
    found = judges.found(name)
    return None if isinstance(found, judges.UnobtainableError) else str(found)


def _graft(stage: Stage, numbers: range) -> None:
    for number in numbers:
        run(GRAFTBOX, "graft", stage.bases[number], stage.repo(f"runtime:{number}"))


def _batch(stage: Stage, numbers: range) -> None:
    listed = "".join(stage.bases[number] + "\n" for number in numbers)
    output = run(
        GRAFTBOX, "graft", "--from", "-", "--to-repo", stage.repo("batch"), "--jobs", "8", text=listed
    )
    outcomes = [json.loads(line) for line in output.splitlines()]
    assert [one["status"] for one in outcomes] == ["made"] * len(numbers)
    (stage.folder.parent / "image").write_text(outcomes[0]["image"])


def _into_docker(stage: Stage, numbers: range) -> None:
    for number in numbers:
        base = f"docker-daemon:graftbox-bench/base:{number}"
        run(GRAFTBOX, "graft", base, f"docker-daemon:graftbox-bench/runtime:{number}")


def _docker_bases(distinct: bool) -> Callable[[Stage], None]:
    """Bases in Docker: ``distinct`` in their layers, or only in a label, so that all layers are shared."""

    def prepare(stage: Stage) -> None:
        common = (stage.folder.parent / "base.tar").read_bytes()
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
        run("docker", "load", "-q", "-i", str(archive))

    return prepare


def _built(buildkit: str) -> Callable[[Stage, range], None]:
    def make(stage: Stage, numbers: range) -> None:
        for number in numbers:
            name = stage.repo(f"built:{number}")
            docker(buildkit, "build", "-q", "-t", name, "-", text=_dockerfile(stage, number, BUNDLE))
            docker(buildkit, "push", "-q", name)

    return make


def _buildah_prepared(stage: Stage) -> None:
    pushed = f"{stage.registry.address}/bundle:1"
    run(GRAFTBOX, "bundle", "push", pushed)
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
    run("buildah", *storage, "--storage-driver", "overlay", command, *arguments)


def _umoci(stage: Stage, numbers: range) -> None:
    for number in numbers:
        image = f"{stage.folder}/layout:b{number}"
        run(
            "skopeo",
            "copy",
            "-q",
            "--src-tls-verify=false",
            f"docker://{stage.bases[number]}",
            f"oci:{image}",
        )
        run("umoci", "raw", "add-layer", "--image", image, str(stage.bundle_tar))
        entrypoint = "/openhands/bin/action-execution-server"
        run("umoci", "config", "--image", image, "--config.entrypoint", entrypoint, "--clear", "config.cmd")
        target = f"docker://{stage.repo(f'umoci:{number}')}"
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{image}", target)


def _crane_prepared(stage: Stage) -> None:
    """The layer as crane takes it fastest: packed already."""
    with (stage.folder.parent / "bundle.tar.gz").open("wb") as packed:
        subprocess.run(["gzip", "-1", "-n", "-c", stage.bundle_tar], check=True, stdout=packed)


def _crane(stage: Stage, numbers: range) -> None:
    crane, layer = str(program("crane")), str(stage.folder.parent / "bundle.tar.gz")
    for number in numbers:
        name = stage.repo(f"crane:{number}")
        run(crane, "append", "-b", stage.bases[number], "-f", layer, "-t", name)
        run(crane, "mutate", name, "--entrypoint", "/openhands/bin/action-execution-server", "-t", name)


INSTALLED = "graftbox-bench/installed"


def _debian(path: Path) -> None:
    """A Debian with apt whose pip trusts the certificates that this machine trusts."""
    bases.debian_layer("trixie")(path)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
    with tarfile.open(path, "a") as archive:
        for name, data in (
            ("opt/certificates.pem", certificates),
            ("etc/pip.conf", b"[global]\ncert = /opt/certificates.pem\n"),
        ):
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))


def _installed(stage: Stage, numbers: range) -> None:
    environment = {**os.environ, "DOCKER_BUILDKIT": "0", "PATH": f"/usr/bin:{os.environ['PATH']}"}
    words = ["image", "build", "--method", "install", "--component", "core", "--build-option=--network=host"]
    for number in numbers:
        name = stage.repo("installed")
        made = run(GRAFTBOX, *words, "--json", "--repo", name, stage.bases[number], env=environment)
        image = json.loads(made)["image"]
        docker("0", "push", "-q", image)
        docker("0", "tag", image, INSTALLED)


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
    Way(
        "`crane append`, `crane mutate`",
        _crane,
        lambda s: s.repo("crane:0"),
        prepare=_crane_prepared,
        needs=("crane",),
    ),
    Way(
        "the server alone installed inside of a Debian (apt, pip), and push",
        _installed,
        lambda _: INSTALLED,
        1,
        needs=("mmdebstrap",),
        base=_debian,
    ),
)


def _dockerfile(stage: Stage, number: int, bundle: str) -> str:
    """What `graftbox dockerfile` prints for this base, without starting it each time."""
    once = stage.folder.parent / "Dockerfile"
    if not once.exists():
        once.write_text(run(GRAFTBOX, "dockerfile", "--bundle-image", bundle, stage.bases[0]))
    return once.read_text().replace(stage.bases[0], stage.bases[number])


def docker(buildkit: str, *arguments: str, text: str = "") -> None:
    """Debian's own client where it is there: it has both builders without a plug-in."""
    client = shutil.which("docker", path="/usr/bin") or "docker"
    run(client, *arguments, text=text, env={**os.environ, "DOCKER_BUILDKIT": buildkit})


def run(*command: str, text: str = "", env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr[-2000:]}")
    return done.stdout


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

"""Grafts in a real Docker daemon, and into podman's and skopeo's hands."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graftbox.errors import NotFoundError, TransportError
from graftbox.image.graft import SERVER, Bundle
from graftbox.image.inspection import diagnose
from graftbox.image.place import Report, graft_image
from graftbox.image.platforms import machine_architecture
from graftbox.image.reference import parse
from graftbox.image.transports import Access
from graftbox.image.unpack import unpacked
from graftbox.store import Store

FILES = {"etc/name": b"base", "usr/bin/tool": b"\x7fELF" * 1000, "bin": "-> usr/bin"}
FILES |= {"old/a": b"", "old/b": b""}
MORE = {"old/.wh.a": b"", "usr/bin/more": b"more", "usr/bin/link": "=> usr/bin/more", "bin": "-> usr/bin"}
OPAQUE = {"old": "/", "old/.wh..wh..opq": b"", "old/c": b"new"}


@pytest.fixture
def graft(store: Store, bundle: Bundle, arm_bundle: Bundle) -> Callable[..., Report]:
    arch = machine_architecture()
    bundles = {arch: arm_bundle if arch == "arm64" else bundle}
    return lambda base, target, **more: graft_image(parse(base), parse(target), bundles, store, **more)


@pytest.fixture
def local(layout: Any, dockerd: Any, tmp_path: Path, tar_of: Callable[..., bytes]) -> Iterator[str]:
    """A base image that exists in the daemon only."""
    (tmp_path / "base.tar").write_bytes(tar_of(FILES))
    changes = ["--change", 'CMD ["/bin/tool"]', "--change", "ENV A=b", "--change", "USER 7"]
    dockerd("import", *changes, str(tmp_path / "base.tar"), "graft-test/base:1")
    yield "docker-daemon:graft-test/base:1"
    names = dockerd("images", "--format", "{{.Repository}}:{{.Tag}}", "graft-test/*").split()
    dockerd("rmi", "--force", *names)


def exported(dockerd: Any, image: str) -> dict[str, tuple[bytes, str, int]]:
    """The image's files as Docker sees them: type, link target, mode."""
    container = dockerd("create", image, "/x")
    try:
        done = subprocess.run(["docker", "export", container], capture_output=True, check=True)
    finally:
        dockerd("rm", container)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        return {member.name.rstrip("/"): _facts(tar, member) for member in tar}


def _facts(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[bytes, str, int]:
    content = tar.extractfile(member) if member.isreg() else None
    return content.read() if content else b"", member.linkname, member.mode & 0o7777


def test_a_base_that_only_the_daemon_has(local: str, graft: Callable[..., Report], dockerd: Any) -> None:
    first = graft(local, "docker-daemon:graft-test/run:1")
    assert first.layers_sent == 2
    shown = json.loads(dockerd("image", "inspect", "graft-test/run:1"))[0]
    assert shown["Id"] == first.digest
    assert shown["Config"]["Entrypoint"] == list(SERVER)
    assert "A=b" in shown["Config"]["Env"]
    assert shown["Config"]["User"] == "7"
    base = json.loads(dockerd("image", "inspect", "graft-test/base:1"))[0]
    assert shown["RootFS"]["Layers"][:1] == base["RootFS"]["Layers"]
    assert shown["Config"]["Labels"]["org.opencontainers.image.base.digest"] == base["Id"]
    files = exported(dockerd, "graft-test/run:1")
    assert files["etc/name"][0] == b"base"
    assert "openhands/server" in files


def test_layers_that_the_daemon_has_are_not_sent_again(local: str, graft: Callable[..., Report]) -> None:
    graft(local, "docker-daemon:graft-test/run:1")
    again = graft(local, "docker-daemon:graft-test/run:2", user="8")
    assert again.layers_sent == again.bytes_sent == 0


def test_from_a_layout_the_whole_image_is_sent_once(
    layout: Any, local: str, graft: Callable[..., Report], dockerd: Any
) -> None:
    layout.image([FILES, MORE], arch=machine_architecture())
    first = graft(f"oci:{layout.folder}:base", "docker-daemon:graft-test/other:1", tags=["2"])
    assert first.layers_sent in {3, 4}
    assert graft(f"oci:{layout.folder}:base", "docker-daemon:graft-test/other:3").layers_sent == 0
    assert dockerd("image", "inspect", "--format", "{{.Id}}", "graft-test/other:2") == first.digest


def test_from_the_daemon_into_a_layout(
    local: str, graft: Callable[..., Report], tmp_path: Path, skopeo: Callable[..., str]
) -> None:
    report = graft(local, f"oci:{tmp_path / 'out'}:run")
    assert json.loads(skopeo("inspect", f"oci:{tmp_path / 'out'}:run"))["Digest"] == report.digest


def test_an_unpacked_image_has_the_files_that_docker_sees(
    layout: Any, local: str, graft: Callable[..., Report], dockerd: Any, store: Store
) -> None:
    layout.image([FILES, MORE, OPAQUE], arch=machine_architecture())
    graft(f"oci:{layout.folder}:base", "docker-daemon:graft-test/files:1")
    ours = unpacked(parse("docker-daemon:graft-test/files:1"), store).rootfs
    theirs = exported(dockerd, "graft-test/files:1")
    added_by_docker = {
        "dev",
        "proc",
        "sys",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
        "etc/mtab",
        ".dockerenv",
    }
    expected = {name for name in theirs if name not in added_by_docker and not name.startswith("dev/")}
    assert {str(path.relative_to(ours)) for path in ours.rglob("*")} == expected
    for name in expected:
        path, (content, link, mode) = ours / name, theirs[name]
        if path.is_symlink():
            assert str(path.readlink()) == link
        elif path.is_file() and not link:
            assert path.read_bytes() == content
            assert path.stat().st_mode & 0o7777 == mode
    assert sorted(path.name for path in (ours / "old").iterdir()) == ["c"]


@pytest.mark.parametrize("form", ["docker-archive:{0}:graft-test/archive:1", "oci-archive:{0}:1"])
def test_docker_loads_both_archives(
    form: str,
    local: str,
    graft: Callable[..., Report],
    dockerd: Any,
    tmp_path: Path,
    skopeo: Callable[..., str],
) -> None:
    target = form.format(tmp_path / "a.tar")
    graft(local, target)
    said = dockerd("load", "--input", str(tmp_path / "a.tar"))
    name = said.split("ID: ")[-1] if "ID" in said else "graft-test/archive:1"
    assert "openhands/core" in exported(dockerd, name)
    skopeo("copy", target, f"dir:{tmp_path / 'copied'}")
    if "ID" in said:
        dockerd("rmi", name)


@pytest.mark.parametrize("form", ["docker-archive:{0}:graft-test/archive:1", "oci-archive:{0}:1"])
def test_podman_loads_both_archives(
    form: str, layout: Any, graft: Callable[..., Report], tmp_path: Path, podman: Callable[..., str]
) -> None:
    layout.image([FILES, MORE], arch=machine_architecture())
    graft(f"oci:{layout.folder}:base", form.format(tmp_path / "a.tar"))
    podman("load", "--quiet", "--input", str(tmp_path / "a.tar"))
    (image,) = json.loads(podman("images", "--format", "json"))
    shown = json.loads(podman("image", "inspect", image["Id"]))[0]
    assert shown["Config"]["Entrypoint"] == list(SERVER)
    assert len(shown["RootFS"]["Layers"]) == 4


def test_the_doctor_examines_an_image_of_the_daemon(local: str, store: Store) -> None:
    assert diagnose(parse(local), store, quick=True).bytes_read == 0
    assert diagnose(parse(local), store).usable


def test_an_unknown_image_and_an_unreachable_daemon(
    dockerd: Any, graft: Callable[..., Report], tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="docker pull"):
        graft("docker-daemon:graft-test/nothing:1", "docker-daemon:graft-test/run:1")
    access = Access(docker_host=f"unix://{tmp_path / 'nothing.sock'}")
    with pytest.raises(TransportError, match="DOCKER_HOST"):
        graft("scratch", "docker-daemon:graft-test/run:1", access=access)

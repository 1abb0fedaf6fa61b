"""The options that the embedded engine gives to bubblewrap."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from graftbox.errors import UnsupportedError, UsageError
from graftbox.sandbox.engines.bubblewrap import Places, arguments, command, environment, nul_separated
from graftbox.sandbox.spec import Network, SandboxSpec, UnpackedImage, Volume
from graftbox.sandbox.users import User

APP = User(1000, 1001, (6,), "/home/app")
ROOT = User(0, 0, (), "/root")


def spec(tmp_path: Path, **changes: Any) -> SandboxSpec:
    image = UnpackedImage(tmp_path, {"Env": ["PATH=/bin", "A=1=2"], "WorkingDir": "/srv/app"})
    facts: dict[str, Any] = {"name": "box", "key": "secret", "label": "x", "base": image, "tree": tmp_path}
    return SandboxSpec(**{**facts, **changes})


def options(wanted: SandboxSpec, user: User = ROOT, *, mapped: bool = True) -> list[str]:
    assert isinstance(wanted.base, UnpackedImage)
    places = Places(Path("/state"))
    return arguments(wanted, wanted.base, user, places, 4321, overlay=True, mapped=mapped)


def has(found: list[str], *words: str) -> bool:
    return list(words) in [found[start : start + len(words)] for start in range(len(found))]


def test_the_image_is_below_and_the_sandboxs_own_changes_on_top(tmp_path: Path) -> None:
    found = options(spec(tmp_path))
    layers = ["--overlay-src", str(tmp_path), "--overlay", "/state/upper", "/state/work", "/"]
    assert has(found, *layers)
    assert has(found, "--ro-bind", f"{tmp_path}/openhands", "/openhands")
    assert has(found, "--dir", "/srv", "--dir", "/srv/app")
    assert has(found, "--chdir", "/srv/app")
    assert "--remount-ro" not in found


def test_the_environment_is_the_images_and_what_docker_adds(tmp_path: Path) -> None:
    wanted = spec(tmp_path, env=(("A", "mine"), ("B", "")))
    assert isinstance(wanted.base, UnpackedImage)
    assert environment(wanted, wanted.base, APP, 4321) == {
        "PATH": "/bin",
        "HOSTNAME": "box",
        "A": "mine",
        "B": "",
        "HOME": "/home/app",
        "SESSION_API_KEY": "secret",
        "GRAFTBOX_PORT": "4321",
        "GRAFTBOX_HOST": "127.0.0.1",
    }
    assert "--clearenv" in options(wanted)


def test_root_keeps_dockers_capabilities_and_others_none(tmp_path: Path) -> None:
    def kept(found: list[str]) -> set[str]:
        return {name for option, name in itertools.pairwise(found) if option == "--cap-add"}

    assert "CAP_SYS_ADMIN" not in kept(options(spec(tmp_path)))
    assert "CAP_CHOWN" in kept(options(spec(tmp_path)))
    assert "CAP_CHOWN" not in kept(options(spec(tmp_path, cap_drop=("chown",))))
    assert kept(options(spec(tmp_path, cap_drop=("ALL",)))) == set()
    assert "CAP_MISSPELT" in options(spec(tmp_path, cap_drop=("misspelt",))), "bubblewrap is to refuse it"
    assert kept(options(spec(tmp_path), APP, mapped=False)) == set()
    assert kept(options(spec(tmp_path), APP, mapped=True)) == {"CAP_SETUID", "CAP_SETGID"}


def test_an_ordinary_user_becomes_the_images_user_in_one_namespace(tmp_path: Path) -> None:
    assert has(options(spec(tmp_path), APP, mapped=False), "--unshare-user", "--uid", "1000", "--gid", "1001")
    assert "--unshare-user" not in options(spec(tmp_path), APP, mapped=True)


def test_the_first_process_is_the_server_or_becomes_it(tmp_path: Path) -> None:
    wanted = spec(tmp_path)
    assert isinstance(wanted.base, UnpackedImage)
    server = ["/openhands/bin/action-execution-server"]
    assert command(wanted, wanted.base, ROOT, become=True) == server
    assert command(wanted, wanted.base, APP, become=False) == server
    switched = command(wanted, wanted.base, APP, become=True)
    assert switched[0] == "/openhands/libexec/python3.13"
    assert switched[4:] == ["1000", "1001", "6", *server]


def test_a_runtime_image_brings_its_own_entrypoint(tmp_path: Path) -> None:
    config = {"Entrypoint": ["/openhands/bin/server", "--", "/entry"], "Cmd": ["a"]}
    image = UnpackedImage(tmp_path, config)
    wanted = spec(tmp_path, tree=None, base=image)
    assert command(wanted, image, ROOT, become=True)[-2:] == ["/entry", "a"]
    assert not has(options(wanted), "--ro-bind", f"{tmp_path}/openhands", "/openhands")
    with pytest.raises(UsageError, match="graft it first"):
        command(wanted, UnpackedImage(tmp_path, {"Cmd": ["bash"]}), ROOT, become=True)


def test_read_only_comes_after_every_mount_point(tmp_path: Path) -> None:
    found = options(spec(tmp_path, read_only=True, tmpfs=("/tmp",), network=Network.NONE))
    last = max(
        index for index, word in enumerate(found) if word in {"--bind", "--ro-bind", "--tmpfs", "--dir"}
    )
    assert found.index("--remount-ro") > last
    assert has(found, "--perms", "1777", "--tmpfs", "/tmp")
    assert has(found, "--bind", "/state/run", "/run/graftbox")
    assert "--unshare-net" in found


def test_mounts_go_where_the_images_links_lead(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    volume = Volume(Path("/data"), "/var/run/data", read_only=True)
    assert has(options(spec(tmp_path, volumes=(volume,))), "--ro-bind", "/data", "/run/data")


def test_there_is_no_bridge(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="--engine docker"):
        options(spec(tmp_path, network=Network.BRIDGE))


def test_options_are_handed_over_whatever_bytes_they_hold() -> None:
    assert nul_separated(["a b", "c\nd", "\udcff"]) == b"a b\0c\nd\0\xff\0"

"""What the Docker Engine API is told, and what its answers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftbox.errors import UnsupportedError
from graftbox.sandbox.engines.docker import DockerEngine, container, sandbox_of, unframed
from graftbox.sandbox.spec import EngineImage, Network, SandboxSpec, Volume
from graftbox.store import Store

IMAGE = EngineImage("base:1")
SOCKETS = Path("/sockets/box/run")


def spec(**changes: Any) -> SandboxSpec:
    facts: dict[str, Any] = {"name": "box", "key": "secret", "label": "docker://base:1", "base": IMAGE}
    return SandboxSpec(**{"tree": Path("/tree"), **facts, **changes})


def test_the_bundle_is_mounted_read_only_beside_an_untouched_image() -> None:
    body = container(spec(), IMAGE, SOCKETS)
    mount = {"Type": "bind", "Source": "/tree/openhands", "Target": "/openhands", "ReadOnly": True}
    assert body["HostConfig"]["Mounts"] == [mount]
    assert body["Entrypoint"][0] == "/openhands/bin/action-execution-server"
    assert body["Cmd"] == []
    assert body["HostConfig"]["PortBindings"] == {"60000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert "User" not in body
    assert "WorkingDir" not in body
    assert body["Env"] == ["SESSION_API_KEY=secret", "GRAFTBOX_PORT=60000"]


def test_a_runtime_image_keeps_its_own_entrypoint() -> None:
    body = container(spec(tree=None), IMAGE, SOCKETS)
    assert "Entrypoint" not in body
    assert body["HostConfig"]["Mounts"] == []


def test_hardening_is_passed_on() -> None:
    wanted = spec(
        read_only=True,
        tmpfs=("/tmp",),
        network=Network.NONE,
        cap_drop=("ALL",),
        no_new_privileges=True,
        user="12345:12345",
    )
    body = container(wanted, IMAGE, SOCKETS)
    host = body["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["Tmpfs"] == {"/tmp": ""}
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert body["User"] == "12345:12345"
    assert "PortBindings" not in host
    assert {"Type": "bind", "Source": str(SOCKETS), "Target": "/run/graftbox", "ReadOnly": False} in host[
        "Mounts"
    ]


def test_volumes_and_ports_are_passed_on() -> None:
    body = container(spec(volumes=(Volume(Path("/a"), "/b", True),), port=8080), IMAGE, SOCKETS)
    assert {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True} in body["HostConfig"]["Mounts"]
    assert body["HostConfig"]["PortBindings"]["60000/tcp"][0]["HostPort"] == "8080"
    body = container(spec(network=Network.HOST, port=8080), IMAGE, SOCKETS)
    assert "GRAFTBOX_PORT=8080" in body["Env"]
    assert "GRAFTBOX_HOST=127.0.0.1" in body["Env"]


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "http://127.0.0.1:49153"),
        ({"network": Network.NONE}, "unix:///sockets/box/run/server.sock"),
        ({"network": Network.HOST, "port": 8080}, "http://127.0.0.1:8080"),
    ],
)
def test_a_container_says_how_it_is_reached(changes: dict[str, Any], url: str) -> None:
    body = container(spec(**changes), IMAGE, SOCKETS)
    ports = {"60000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "49153"}]}
    details = {"Config": body, "State": {"Running": True}, "NetworkSettings": {"Ports": ports}}
    found = sandbox_of(details, "docker")
    assert (found.url, found.key, found.status, found.name) == (url, "secret", "running", "box")
    assert found.image == "docker://base:1"
    ended = sandbox_of({**details, "State": {"Running": False}}, "docker")
    assert (ended.url, ended.status) == ("", "exited")


@pytest.mark.parametrize("host", ["tcp://far:2375", "tcp://10.0.0.2:2375"])
def test_another_machines_docker_is_refused_before_it_is_asked(host: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="another machine"):
        DockerEngine(Store(tmp_path), host).start(spec())


@given(st.lists(st.binary(max_size=300)), st.integers(1, 50))
def test_a_log_survives_any_cut_of_its_stream(pieces: list[bytes], size: int) -> None:
    stream = b"".join(b"\x01\0\0\0" + len(piece).to_bytes(4, "big") + piece for piece in pieces)
    chunks = (stream[start : start + size] for start in range(0, len(stream), size))
    assert b"".join(unframed(chunks)) == b"".join(pieces)


def test_a_transport_that_we_do_not_speak_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="ssh://far"):
        DockerEngine(Store(tmp_path), "ssh://far")


def test_a_daemon_that_is_not_there_does_not_run(tmp_path: Path) -> None:
    engine = DockerEngine(Store(tmp_path), f"unix://{tmp_path}/none.sock")
    assert not engine.running()
    engine.close()

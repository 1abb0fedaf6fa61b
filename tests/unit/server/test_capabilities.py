"""What the server says of the sandbox, also when something is used up."""

from __future__ import annotations

import resource
import socket
from pathlib import Path
from typing import Any

import pytest

from graftbox import __version__
from graftbox.server import cgroup


def test_what_works_and_what_does_not_is_told_with_the_reason(client: Any) -> None:
    status, found = client.ask("GET", "/v1/capabilities")
    assert status == 200
    assert found["version"] == __version__
    assert found["folders"]["working_dir"]["path"] == str(client.folder)
    assert found["folders"]["working_dir"]["writable"]
    assert found["problems"] == []
    for name in ("shell", "tmux", "terminal", "commands", "git"):
        assert found["features"][name] == {**found["features"][name], "works": True, "reason": None}
    for feature in found["features"].values():
        assert feature["works"] or feature["reason"]


def test_a_sandbox_without_tmux_says_so(start: Any, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    server = start(environment={"PATH": str(tmp_path / "bin")})
    found = server.ask("GET", "/v1/capabilities")[1]
    assert not found["features"]["tmux"]["works"]
    assert not found["features"]["terminal"]["works"]
    assert "tmux" in found["problems"][0]
    assert not found["features"]["git"]["works"]
    assert server.ask("POST", "/v1/sessions", {})[0] == 501
    assert server.ask("POST", "/v1/run", {"command": "echo still here"})[1]["stdout"] == "still here\n"


def test_open_files_run_out_without_the_server_falling_silent(start: Any) -> None:
    server = start()
    assert server.ask("POST", "/v1/run", {"command": "true"})[0] == 200
    used = server.ask("GET", "/v1/capabilities")[1]["open_files"]["used"]
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 2, before[1]))
    status, answer = server.ask("POST", "/v1/run", {"command": "true"})
    assert status == 503
    assert "open files" in answer["detail"]
    assert server.ask("GET", "/alive") == (200, {"status": "ok"})
    found = server.ask("GET", "/v1/capabilities")[1]
    assert any("files are open" in problem for problem in found["problems"])
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
    assert server.ask("POST", "/v1/run", {"command": "true"})[0] == 200


def test_connections_take_no_more_than_half_of_the_files(start: Any) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    try:
        server = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(150)]
    server.connection.close()
    assert server.ask("GET", "/alive") == (200, {"status": "ok"})
    assert server.ask("GET", "/v1/capabilities")[1]["open_files"]["used"] < 100
    for connection in idle:
        connection.close()


def test_memory_that_is_not_there_is_a_503_and_the_server_goes_on(start: Any) -> None:
    server = start()
    assert server.ask("POST", "/v1/run", {"command": "true"})[0] == 200
    size = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + 24 * 1024 * 1024
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    status, answer = server.ask("POST", "/v1/run", b'{"command":"true","stdin":"' + bytes(15_000_000) + b'"}')
    assert status in (422, 503), answer
    assert server.ask("GET", "/alive") == (200, {"status": "ok"})
    assert server.ask("GET", "/v1/capabilities")[0] == 200


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups_are_read(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / ("outer/inner" if version == 2 else "memory/outer/inner")
    pids = inner if version == 2 else tmp_path / "pids/outer/inner"
    for folder in (inner, pids):
        folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    own, outer = ("max", "1000000") if version == 2 else ("9223372036854771712", "1000000")
    for folder, limit in ((inner, own), (inner.parent, outer)):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text("600000\n")
    (inner / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    (pids / "pids.max").write_text("50\n")
    (pids / "pids.current").write_text("45\n")
    lines = "0::/outer/inner\n" if version == 2 else "4:memory:/outer/inner\n3:pids:/outer/inner\n"
    read = cgroup.text
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "text", lambda path: lines if path == "/proc/self/cgroup" else read(path))
    assert cgroup.memory() == {"limit_bytes": 1000000, "used_bytes": 500000, "available_bytes": 400000}
    assert cgroup.processes() == {"limit": 50, "used": 45}

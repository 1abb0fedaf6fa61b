"""Any image becomes a sandbox: every base, as it is and locked down, on Docker and on the embedded engine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.bases import BASES, DEFAULT_PATH, HOSTILE, Base, reference

from graftbox.sandbox.client import Client

LOCKED_DOWN = (
    "--read-only --tmpfs /tmp --network none --cap-drop ALL --security-opt no-new-privileges -u 12345:12345"
)
MODES = {"default": "", "locked-down": LOCKED_DOWN}
ENGINES = ("docker", "embedded")
HOME = {"scratch": "/", "musl": "/", "distroless": "/home/nonroot", "uid12345": "/"}
"""Where it is not /root; a user without an entry in the base's passwd lives in /."""
SHELL_OWN = {"PWD", "OLDPWD", "SHLVL", "_"}
"""What every bash exports to its children."""


def graftbox(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("graftbox"), *arguments], capture_output=True, text=True, timeout=300
    )
    assert not check or done.returncode == 0, f"graftbox {' '.join(arguments)}: {done.stderr}"
    return done


@contextmanager
def started(base: str, *options: str) -> Iterator[dict[str, str]]:
    """What `graftbox run` says of a detached sandbox, which is deleted in the end."""
    facts = json.loads(graftbox("run", "--detach", "--json", *options, reference(base)).stdout)
    try:
        yield facts
    finally:
        graftbox("rm", "-f", facts["name"])


@contextmanager
def sandbox(base: str, *options: str) -> Iterator[Client]:
    """A client of such a sandbox."""
    with started(base, *options) as facts, Client(facts["url"], facts["key"]) as client:
        yield client


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("base", BASES.values(), ids=list(BASES))
def test_any_base_becomes_a_sandbox(
    base: Base, mode: str, engine: str, request: pytest.FixtureRequest
) -> None:
    if engine == "docker":
        request.getfixturevalue("dockerd")
    with sandbox(base.name, "--engine", engine, *MODES[mode].split()) as client:
        assert client.alive()
        check_shell(client)
        check_git(client)
        check_own_program(base, client)
        check_bundled_program(client)
        check_environment(base, client, locked=mode == "locked-down")
        if mode == "locked-down":
            check_locked(client)


def check_shell(client: Client) -> None:
    outcome = client.run("echo some output; (exit 3)")
    assert (outcome.output, outcome.exit_code) == ("some output", 3)
    outcome = client.run("cd / && echo $((6 * 7))")
    assert (outcome.output, outcome.exit_code, outcome.working_dir) == ("42", 0, "/")


def check_git(client: Client) -> None:
    outcome = client.run("/openhands/bin/oh-git --version")
    assert outcome.output.startswith("git version 2."), outcome
    assert outcome.exit_code == 0


def check_own_program(base: Base, client: Client) -> None:
    """The base's program maps the base's C library and nothing of ours."""
    if base.program is None:
        return
    outcome = client.run(base.program)
    mapped = files_in(outcome.output)
    assert outcome.exit_code == 0, outcome
    assert mapped, outcome
    assert not [path for path in mapped if path.startswith("/openhands")]
    libraries = {path for path in mapped if ".so" in path and "/hostile/" not in path}
    c_libraries = [path for path in libraries if "libc" in path]
    assert bool(c_libraries) is bool(base.libc)
    assert all((base.libc or "") in path for path in c_libraries)
    if base.name == "hostile":
        assert "/hostile/preload.so" in mapped, "the variables of the base no longer reach its programs"


def check_bundled_program(client: Client) -> None:
    """Our Python maps our files only, whatever the base and its variables say."""
    outcome = client.run("/openhands/bin/oh-python -c 'print(open(\"/proc/self/maps\").read())'")
    assert outcome.exit_code == 0, outcome
    mapped = files_in(outcome.output)
    assert any("libc.so.6" in path for path in mapped), outcome
    assert not [path for path in mapped if not path.startswith("/openhands/")]


def check_environment(base: Base, client: Client, *, locked: bool) -> None:
    """The shell got the image's variables byte for byte, and hands them on with its own four only.

    Beside them are those that Docker gives every container, PWD from bubblewrap (as any shell sets it),
    and, as with ``docker run --tty``, a TERM where the image has none.
    """
    home = "/" if locked else HOME.get(base.name, "/root")
    expected = {"PATH": DEFAULT_PATH, "HOME": home, "TERM": "screen", **base.variables}
    got = variables_in(client, "/proc/$$/environ")
    assert got.pop("HOSTNAME")
    got.pop("PWD", None)
    assert got == expected
    if base.environ is not None:
        assert client.run(f"{base.environ} /proc/self/environ > /tmp/environ").exit_code == 0
        got = variables_in(client, "/tmp/environ")
        assert {name: got.get(name) for name in expected} == expected
        assert set(got) - set(expected) - {"HOSTNAME"} <= SHELL_OWN


def check_locked(client: Client) -> None:
    outcome = client.run("echo $UID; touch /openhands/x /x 2>/dev/null || : > /x")
    assert outcome.output.startswith("12345\n"), outcome
    assert "Read-only file system" in outcome.output
    status = client.run("while read -r line; do echo $line; done < /proc/self/status").output
    assert "CapEff: 0000000000000000" in status
    assert "NoNewPrivs: 1" in status
    devices = client.run("while read -r line; do echo $line; done < /proc/net/dev").output
    assert [line.split(":")[0] for line in devices.splitlines() if ":" in line] == ["lo"]


def files_in(maps: str) -> set[str]:
    """The files in the text of a /proc/PID/maps."""
    rows = (line.split(maxsplit=5) for line in maps.splitlines())
    return {row[5] for row in rows if len(row) == 6 and row[5].startswith("/")}


def variables_in(client: Client, path: str) -> dict[str, str]:
    """The variables in a file of the form of /proc/PID/environ, without loss on the way."""
    code = 'import sys; print(ascii(open(sys.argv[1], "rb").read()))'
    outcome = client.run(f"/openhands/bin/oh-python -c '{code}' {path}")
    assert outcome.exit_code == 0, outcome
    data: bytes = ast.literal_eval(outcome.output)
    return dict(item.partition("=")[::2] for item in data.decode().split("\0") if item)


def test_the_table_has_every_kind_of_base() -> None:
    kinds = {"scratch", "busybox", "musl", "distroless", "uid12345", "hostile"}
    assert kinds | {"bullseye", "bookworm", "trixie", "forky"} == set(BASES)
    assert set(HOSTILE) <= set(BASES["hostile"].variables)

"""Two worlds in one sandbox: our programs use our files only, the user's see the image's variables only.

The base has every variable set that usually breaks bundled programs, each to something that does break them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.bases import HOSTILE, reference

from graftbox.sandbox.client import Client

GRAFTBOX = str(Path(sys.executable).with_name("graftbox"))
OWN_PROCESSES = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        program = os.readlink(f"/proc/{pid}/exe")
        rows = [line.split(maxsplit=5) for line in open(f"/proc/{pid}/maps")]
    except OSError:
        continue
    for path in sorted({row[5].strip() for row in rows if len(row) == 6 and row[5].startswith("/")}):
        print(program, path)
"""


@pytest.fixture(scope="module", params=["docker", "embedded"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A sandbox on the hostile base."""
    if request.param == "docker":
        request.getfixturevalue("dockerd")
    command = [GRAFTBOX, "run", "--engine", request.param, "--detach", "--json", reference("hostile")]
    started = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    try:
        with Client(started["url"], started["key"]) as client:
            yield client
    finally:
        subprocess.run([GRAFTBOX, "rm", "-f", started["name"]], check=True, capture_output=True)


def output(client: Client, command: str) -> str:
    outcome = client.run(command, timeout=60)
    assert outcome.exit_code == 0, outcome
    return outcome.output


def test_every_process_of_ours_maps_our_files_only(client: Client) -> None:
    client.write("/tmp/processes.py", OWN_PROCESSES)
    pairs = [
        line.split(" ", 1)
        for line in output(client, "/openhands/bin/oh-python /tmp/processes.py").splitlines()
    ]
    ours = {program for program, _ in pairs if program.startswith("/openhands/")}
    assert {Path(program).name for program in ours} >= {"python3.13", "tmux"}
    assert [pair for pair in pairs if pair[0] in ours and not pair[1].startswith("/openhands/")] == []


@pytest.mark.parametrize(
    "command",
    [
        "/openhands/bin/oh-bash --norc -c 'while read -r line; do echo \"$line\"; done < /proc/self/maps'",
        "/openhands/bin/oh-rg --no-line-number --no-mmap . /proc/self/maps",
        "/openhands/bin/oh-python -c 'print(open(\"/proc/self/maps\").read())'",
        "/openhands/bin/oh-git -c 'alias.maps=!cat /proc/$PPID/maps' maps",
    ],
    ids=["bash", "rg", "python", "git"],
)
def test_a_bundled_program_maps_our_files_only(client: Client, command: str) -> None:
    rows = (line.split(maxsplit=5) for line in output(client, command).splitlines())
    mapped = {row[5] for row in rows if len(row) == 6 and row[5].startswith("/")}
    assert mapped
    assert [path for path in mapped if not path.startswith("/openhands/")] == []


def test_git_works_from_init_to_log(client: Client) -> None:
    git = "/openhands/bin/oh-git --no-pager -c user.name=a -c user.email=a@b"
    said = output(
        client,
        f'git() {{ {git} "$@"; }} && git init -q /tmp/repo && cd /tmp/repo && echo x > f && '
        "git add f && git commit -q -m 'erster Versuch: ä' && git log --format=%s && git stash list && "
        "git grep -n x && unset -f git && cd /",
    )
    assert said.splitlines() == ["erster Versuch: ä", "f:1:x"]


def test_bundled_python_has_its_own_library_and_certificates(client: Client) -> None:
    script = "import json, ssl, sys; print(sys.prefix, ssl.create_default_context().cert_store_stats())"
    said = output(client, f"/openhands/bin/oh-python -c '{script}'")
    assert said.startswith("/openhands {")
    assert "'x509_ca': 0" not in said


def test_characters_beyond_ascii_survive_an_odd_locale(client: Client) -> None:
    assert output(client, "printf '%s\\n' 'äöü € 漢字 🦔'") == "äöü € 漢字 🦔"


def test_the_users_programs_see_the_hostile_variables_unchanged(client: Client) -> None:
    for name, value in HOSTILE.items():
        said = output(client, f"printf '%s|' \"${name}\"; printenv {name}")
        assert said == f"{value}|{value}", name


def test_nothing_of_ours_is_in_the_users_environment(client: Client) -> None:
    ours = ("GRAFTBOX", "SESSION", "LC_", "TMUX", "OPENHANDS")
    for source in ("env -0", "cat /proc/$$/environ"):
        names = output(client, f"{source} | cut -z -d= -f1 | tr '\\0' ' '").split()
        assert "PATH" in names
        assert [name for name in names if name.startswith(ours)] == []


def test_a_prompt_of_the_users_own_breaks_nothing(client: Client) -> None:
    output(client, "PS1='$(exit 5) \\u odd> ' PS2='' PROMPT_COMMAND='echo prompted; false'")
    for expected in (0, 3):
        outcome = client.run(f"(echo still here; exit {expected})", timeout=30)
        assert outcome.exit_code == expected
        assert "still here" in outcome.output
    output(client, "unset PROMPT_COMMAND; PS1='$ '")

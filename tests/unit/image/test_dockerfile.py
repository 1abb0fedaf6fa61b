"""Dockerfiles as text."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftbox.errors import UsageError
from graftbox.image.dockerfile import Image, Start, add, copy, from_name, install, pyinstaller, quoted
from graftbox.image.graft import SERVER
from graftbox.image.reference import parse

BASE = Image("docker.io/library/ubuntu:22.04", {"b": "2", "a": "1"})


def instructions(text: str) -> list[str]:
    """The Dockerfile's lines without comments, continued ones joined."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return re.sub(r" *\\\n *", " ", "\n".join(lines)).splitlines()


def test_copying_needs_four_instructions_and_no_shell() -> None:
    assert instructions(copy(BASE, "registry.example/bundle:1")) == [
        "FROM docker.io/library/ubuntu:22.04",
        "COPY --from=registry.example/bundle:1 /openhands /openhands",
        'LABEL a="1" b="2"',
        f"ENTRYPOINT {json.dumps(list(SERVER))}",
    ]


def test_layers_and_binaries_come_from_the_build_context() -> None:
    assert instructions(add(BASE, ["0-core.tar.gz", "1-server.tar.gz"]))[1:3] == [
        "ADD 0-core.tar.gz /",
        "ADD 1-server.tar.gz /",
    ]
    assert "COPY openhands /openhands" in instructions(pyinstaller(BASE))


def test_the_traditional_way_installs_only_what_it_has_to() -> None:
    scratch = install(BASE, Start.SCRATCH)
    versioned = install(BASE, Start.VERSIONED, "repo:versioned")
    lock = install(BASE, Start.LOCK, "repo:lock")
    assert instructions(scratch)[0] == "FROM docker.io/library/ubuntu:22.04"
    assert instructions(versioned)[0] == "FROM repo:versioned"
    assert instructions(lock)[0] == "FROM repo:lock"
    assert ["apt-get install" in text for text in (scratch, versioned, lock)] == [True, False, False]
    assert ["pip install" in text for text in (scratch, versioned, lock)] == [True, True, False]
    assert all("COPY openhands /openhands" in text for text in (scratch, versioned, lock))


@pytest.mark.parametrize("way", [lambda i: copy(i, "b:1"), pyinstaller, lambda i: install(i, Start.SCRATCH)])
def test_nothing_newer_than_the_classic_builder_is_used(way: object) -> None:
    assert callable(way)
    text = way(Image("ubuntu", {"a": "b"}, "7", "true"))
    assert "<<" not in text
    assert "--mount" not in text
    assert "--link" not in text
    assert "--chmod" not in text
    assert not re.search(r"^# *(syntax|escape) *=", text, re.MULTILINE)


def test_extra_commands_are_taken_as_they_are() -> None:
    command = 'echo "$HOME" \'x\' \\\nEND && printf "%s" y'
    (run,) = [line for line in instructions(copy(Image("a", extra_deps=command), "b")) if line[:3] == "RUN"]
    assert json.loads(run.removeprefix("RUN ")) == ["/bin/sh", "-c", command]


def test_values_cannot_leave_their_quotes() -> None:
    assert quoted('a"b\\c$d') == '"a\\"b\\\\c\\$d"'
    for value in ("a\nRUN rm", "a\rb", "a\0b"):
        with pytest.raises(UsageError):
            quoted(value)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("Registry.example:5000/a/b:1", "registry.example:5000/a/b:1"),
        ("localhost/app:2", "localhost/app:2"),
        ("docker-daemon:app:2", "docker.io/library/app:2"),
        (f"a/b@sha256:{'0' * 64}", f"docker.io/a/b@sha256:{'0' * 64}"),
        ("scratch", "scratch"),
    ],
)
def test_a_base_is_written_as_builders_read_it(base: str, expected: str) -> None:
    assert from_name(parse(base)) == expected


@pytest.mark.parametrize("base", ["oci:folder", "docker-archive:file.tar", "oci-archive:f.tar:x"])
def test_files_cannot_be_built_upon(base: str) -> None:
    with pytest.raises(UsageError, match="docker load"):
        from_name(parse(base))


@given(st.text(min_size=1))
def test_no_base_name_becomes_an_instruction(text: str) -> None:
    try:
        name = from_name(parse(text))
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]*", name)
    assert len(instructions(copy(Image(name), "b"))) == 3

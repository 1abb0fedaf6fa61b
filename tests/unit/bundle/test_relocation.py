from __future__ import annotations

from collections.abc import Callable

import pytest

from graftbox.bundle import elf, relocation, rules
from graftbox.bundle.content import Content, File, Link
from graftbox.errors import FormatError

MakeElf = Callable[..., bytes]


def test_a_program_starts_through_the_bundle(make_elf: MakeElf) -> None:
    data = make_elf(interpreter="/lib64/ld-linux-x86-64.so.2")
    content: Content = {"libexec/bash": File(data, executable=True)}
    relocation.relocate(content, "amd64")
    changed = content["libexec/bash"]
    assert isinstance(changed, File)
    facts = elf.parse(changed.data, "bash")
    assert facts.interpreter is not None
    assert facts.interpreter.text == "/openhands/lib/ld.so"
    assert changed.executable
    assert len(changed.data) == len(data)


def test_only_search_paths_that_leave_the_bundle_are_ignored(make_elf: MakeElf) -> None:
    absolute, relative = make_elf(runpath="/usr/lib/pulse"), make_elf(runpath="$ORIGIN/../x.libs")
    assert elf.parse(relocation.relocated("lib/a.so", File(absolute), "amd64"), "a").search_paths == ()
    assert relocation.relocated("lib/b.so", File(relative), "amd64") == relative


def test_another_architecture_is_refused(make_elf: MakeElf) -> None:
    with pytest.raises(FormatError, match=r"lib/a\.so of foo 1\.2 is made for arm64, not amd64"):
        relocation.relocated("lib/a.so", File(make_elf("arm64"), origin="foo 1.2"), "amd64")


@pytest.mark.parametrize("copies", [0, 2])
def test_a_surprise_names_file_package_and_patch(make_elf: MakeElf, copies: int) -> None:
    payload = b"\0/etc/ssl/certs/ca-certificates.crt\0" * copies
    file = File(make_elf(payload=payload), origin="libcurl3t64-gnutls 8.14.1-2")
    with pytest.raises(FormatError) as raised:
        relocation.relocated("lib/libcurl-gnutls.so.4", file, "amd64")
    message = str(raised.value)
    assert "lib/libcurl-gnutls.so.4 of libcurl3t64-gnutls 8.14.1-2" in message
    assert f"/etc/ssl/certs/ca-certificates.crt -> /openhands/s/cert.pem' matches {copies} times" in message


def test_a_hidden_variable_keeps_the_tail_that_other_strings_share() -> None:
    data = bytearray(b"x\0LOCPATH\0MYLOCPATH\0LOCPATHS\0")
    relocation.apply(data, rules.hidden("LOCPATH"), "it")
    assert bytes(data) == b"x\0\x01OCPATH\0MYLOCPATH\0LOCPATHS\0"


def test_a_path_is_stretched_with_slashes() -> None:
    patch = rules.moved("/usr/lib/git-core", "/openhands/g", 1)
    data = bytearray(b"\0/usr/lib/git-core\0")
    relocation.apply(data, patch, "git")
    assert bytes(data) == b"\0/openhands//////g\0"


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_the_loader_looks_nowhere_else(arch: str, make_elf: MakeElf) -> None:
    triplet = rules.TRIPLETS[arch]
    table = f"\0/lib/{triplet}/\0/usr/lib/{triplet}/\0/lib/\0/usr/lib/\0".encode()
    code = {
        "amd64": b"\x80\x38\x4c\x75\x40\x80\x78\x01\x44\x75\x3a\x80\x78\x02\x5f\x75\x34",
        "arm64": b"\x1f\x30\x01\x71\x01\x02\x00\x54\x20\x04\x40\x39\x1f\x10\x01\x71\xa1\x01\x00\x54"
        b"\x20\x08\x40\x39\x1f\x7c\x01\x71\x41\x01\x00\x54",
    }[arch]
    payload = table + table + b"/etc/ld.so.cache\0/etc/ld.so.preload\0GETCONF_DIR\0GLIBC_TUNABLES\0"
    payload += code + b"idx\0GLIBC_TUNABLES\0"
    data = make_elf(arch, payload=payload)
    changed = relocation.relocated("lib/ld.so", File(data), arch)
    assert len(changed) == len(data)
    for old in (triplet.encode(), b"\0/lib/", b"\0/usr/lib/", b"/etc/", b"idx\0GLIBC"):
        assert old not in changed
    assert b"GETCONF_DIR\0GLIBC_TUNABLES\0" in changed
    with pytest.raises(FormatError, match="matches 0 times"):
        relocation.relocated("lib/ld.so", File(changed), arch)


@pytest.mark.parametrize(
    ("script", "relocated"),
    [
        (b"#!/bin/sh\necho\n", b"#!/openhands/libexec/dash\necho\n"),
        (b"#! /bin/sh -e\n", b"#!/openhands/libexec/dash -e\n"),
        (b"#! /usr/bin/python3.13\nx", b"#!/openhands/libexec/python3.13\nx"),
        (b"#!/usr/bin/perl\n", b"#!/usr/bin/perl\n"),
    ],
)
def test_scripts_start_the_bundles_interpreters(script: bytes, relocated: bytes) -> None:
    content: Content = {"a": File(script, executable=True), "b": File(script), "c": Link("a")}
    relocation.relocate(content, "amd64")
    assert content == {"a": File(relocated, executable=True), "b": File(script), "c": Link("a")}

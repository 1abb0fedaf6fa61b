from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from graftbox.bundle import plan
from graftbox.bundle.content import Content, File, Folder, Link
from graftbox.bundle.stage import stage
from graftbox.errors import FormatError, UsageError

LIB = "usr/lib/x86_64-linux-gnu"
MakeElf = Callable[..., bytes]
Stage = Callable[..., Content]


@pytest.fixture
def staged(tmp_path: Path, make_deb: Callable[..., bytes], make_elf: MakeElf) -> Stage:
    """Stages a table from packages given as files; a libc with its loader is always there."""
    libc = {
        f"{LIB}/ld-linux-x86-64.so.2": make_elf(soname="ld-linux-x86-64.so.2"),
        f"{LIB}/libc.so.6": make_elf(soname="libc.so.6", needed=["ld-linux-x86-64.so.2"]),
        "usr/share/doc/libc6/copyright": b"LGPL",
    }

    def run(
        table: Mapping[str, Any],
        wheels: Mapping[str, Path] | None = None,
        below: Content | None = None,
        **packages: Mapping[str, Any],
    ) -> Content:
        paths = {}
        for name, files in {"libc6": libc, **packages}.items():
            path = tmp_path / f"{name}.deb"
            path.write_bytes(make_deb(files))
            paths[f"{name} 1.0"] = path
        return stage(plan.parse(table, "amd64"), paths, wheels or {}, "amd64", below)

    return run


def test_a_program_brings_the_libraries_it_needs_and_their_licences(staged: Stage, make_elf: MakeElf) -> None:
    content = staged(
        {"take": [{"from": "usr/bin/foo", "to": "libexec/foo"}]},
        foo={
            "usr/bin/foo": make_elf(needed=["libbar.so.1", "libc.so.6"]),
            "usr/share/doc/foo": "-> libbar",
        },
        libbar={
            f"{LIB}/libbar.so.1": "-> libbar.so.1.2.3",
            f"{LIB}/libbar.so.1.2.3": make_elf(soname="libbar.so.1", needed=["libbaz.so.2"]),
            f"{LIB}/libbaz.so.2": make_elf(soname="libbaz.so.2"),
            f"{LIB}/libunused.so.2": make_elf(),
            "usr/share/doc/libbar/copyright": b"MIT",
        },
        unused={"usr/share/doc/unused/copyright": b"GPL", "usr/share/other": b""},
    )
    assert sorted(content) == [
        "lib/ld.so",
        "lib/libbar.so.1",
        "lib/libbaz.so.2",
        "lib/libc.so.6",
        "libexec/foo",
        "share/doc/foo/copyright",
        "share/doc/libbar/copyright",
        "share/doc/libc6/copyright",
    ]
    assert content["share/doc/foo/copyright"] == File(b"MIT", origin="libbar 1.0")


def test_what_the_layers_below_have_is_left_out(staged: Stage, make_elf: MakeElf) -> None:
    packages = {
        "foo": {"usr/bin/foo": make_elf(needed=["libbar.so.1", "libbaz.so.1"]), "usr/share/both": b"same"},
        "libbar": {f"{LIB}/libbar.so.1": make_elf(), f"{LIB}/libbaz.so.1": make_elf(payload=b"baz")},
    }
    both = {"from": "usr/share/both", "to": "both"}
    below = staged({"take": [both], "libraries": ["libbar.so.1"]}, **packages)
    table = {"take": [{"from": "usr/bin/foo", "to": "libexec/foo"}, both], "libraries": ["libbar.so.1"]}
    assert sorted(staged(table, below=below, **packages)) == ["lib/libbaz.so.1", "libexec/foo"]


def test_another_file_than_the_layers_below_have_is_a_mistake(staged: Stage) -> None:
    table = {"scripts": {"bin/x": "#!/bin/sh\n"}}
    below = staged(table)
    with pytest.raises(UsageError, match="different files at bin/x"):
        staged({"scripts": {"bin/x": "#!/bin/dash\n"}}, below=below)


def test_a_library_that_no_package_has_is_named_with_who_needs_it(staged: Stage, make_elf: MakeElf) -> None:
    with pytest.raises(FormatError, match=r"library libgone\.so\.1, which libexec/foo of foo 1\.0 needs"):
        staged(
            {"take": [{"from": "usr/bin/foo", "to": "libexec/foo"}]},
            foo={"usr/bin/foo": make_elf(needed=["libgone.so.1"])},
        )


def test_a_wheels_own_libraries_are_found_beside_it(staged: Stage, make_elf: MakeElf, tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("x/_c.so", make_elf(needed=["libq.so"], runpath="$ORIGIN/../x.libs"))
        archive.writestr("x.libs/libq.so", make_elf(soname="libq.so", needed=["libc.so.6"]))
        archive.writestr("x-1.data/purelib/y.py", "y")
        archive.writestr("x-1.data/scripts/x", "#!python")
        archive.writestr("x-1.dist-info/RECORD", "")
        archive.writestr("x-1.dist-info/METADATA", "Name: x")
    content = staged({"wheels": "lib/p"}, {"x 1": wheel})
    assert sorted(path for path in content if path.startswith("lib/p/")) == [
        "lib/p/x-1.dist-info/METADATA",
        "lib/p/x.libs/libq.so",
        "lib/p/x/_c.so",
        "lib/p/y.py",
    ]
    assert "lib/libc.so.6" in content


def test_parts_of_a_wheel_go_where_the_table_says_and_its_programs_stay_executable(
    staged: Stage, make_elf: MakeElf, tmp_path: Path
) -> None:
    wheel, program = tmp_path / "node.whl", make_elf()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {
            "x/bin/node": program,
            "x/bin/npm": b"#!/usr/bin/env node",
            "x/doc/a.md": b"",
        }.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100755 << 16
            archive.writestr(info, data)
    takes = [{"from": "x/bin/node", "to": "libexec/node"}, {"from": "", "to": "all", "except": ["doc"]}]
    content = staged({"wheels": "lib/p", "from-wheel": {"node": takes}}, {"node 1": wheel})
    assert content["libexec/node"] == content["all/x/bin/node"] == File(program, True, "node 1")
    assert content["all/x/bin/npm"] == File(b"#!/usr/bin/env node", False, "node 1")
    assert not [path for path in content if path.startswith("lib/p") or path.endswith(".md")]
    missing = {"from-wheel": {"node": [{"from": "x/none", "to": "y"}]}}
    with pytest.raises(UsageError, match="No package of the lock has x/none"):
        staged(missing, {"node 1": wheel})


def test_a_table_may_hold_small_files(staged: Stage) -> None:
    content = staged({"files": {"etc/fonts.conf": "<fontconfig/>"}})
    assert content["etc/fonts.conf"] == File(b"<fontconfig/>")


def test_a_damaged_wheel_is_named(staged: Stage, tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"PK\3\4 not really")
    with pytest.raises(FormatError, match=r"The wheel x 1 .* is damaged"):
        staged({"wheels": "lib/p"}, {"x 1": wheel})


def test_globs_choose_below_a_folder(staged: Stage) -> None:
    content = staged(
        {
            "take": [
                {"from": "usr/share/a", "to": "a", "only": ["*.py", "keep"], "except": ["test", "x/*.py"]}
            ]
        },
        a={
            f"usr/share/a/{name}": b"1"
            for name in ("one.py", "two.txt", "keep/two.txt", "test/one.py", "x/one.py", "y/test/one.py")
        },
    )
    assert sorted(path for path in content if path.startswith("a/")) == ["a/keep/two.txt", "a/one.py"]


def test_links_scripts_folders_and_certificates_are_made(staged: Stage) -> None:
    content = staged(
        {
            "links": {"bin/rg": "../libexec/rg"},
            "scripts": {"bin/x": "#!/openhands/libexec/dash\n"},
            "folders": ["workspace"],
            "certificates": {"from": "usr/share/ca-certificates", "to": "etc/ca.crt"},
        },
        ca={"usr/share/ca-certificates/m/b.crt": b"B\n", "usr/share/ca-certificates/m/a.crt": b"A"},
    )
    assert content["bin/rg"] == Link("../libexec/rg")
    assert content["bin/x"] == File(b"#!/openhands/libexec/dash\n", executable=True)
    assert content["workspace"] == Folder()
    assert content["etc/ca.crt"] == File(b"A\nB\n", origin="ca 1.0")


def test_a_take_that_no_package_satisfies_is_a_mistake(staged: Stage) -> None:
    with pytest.raises(UsageError, match="No package of the lock has usr/bin/nope"):
        staged({"take": [{"from": "usr/bin/nope", "to": "libexec/nope"}]})


def test_two_files_for_one_place_are_a_mistake(staged: Stage) -> None:
    with pytest.raises(UsageError, match="two different files at x"):
        staged(
            {"take": [{"from": "usr/a", "to": "x"}, {"from": "usr/b", "to": "x"}]},
            ab={"usr/a": b"a", "usr/b": b"b"},
        )


@pytest.mark.parametrize(
    "table", [{"takes": []}, {"take": [{"from": "x"}]}, {"take": [{"from": 1, "to": "x"}]}]
)
def test_a_mistake_in_the_table_is_named(table: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="stage table"):
        plan.parse(table, "amd64")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("take", 3),
        ("take", [3]),
        ("take", [{"from": "a"}]),
        ("take", [{"from": "a", "to": 1}]),
        ("take", [{"from": "a", "to": "b", "only": 1}]),
        *itertools.product(("libraries", "folders"), (3, [3], "a")),
        *itertools.product(("files", "links", "scripts"), (3, ["a"], {"a": 3})),
        ("from-wheel", 3),
        ("from-wheel", [3]),
        ("from-wheel", {"a": 3}),
        ("from-wheel", {"a": [{}]}),
        *((key, 3) for key in ("certificates", "wheels", "from-npm", "from-archive", "native")),
    ],
)
def test_a_stage_table_of_the_wrong_kind_is_told_by_its_key(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"key '{key}' of a recipe's stage table must be"):
        plan.parse({key: value}, "amd64")

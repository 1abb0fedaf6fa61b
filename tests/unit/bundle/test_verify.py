from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graftbox.bundle import layers, rules
from graftbox.bundle.content import Content, File, Link
from graftbox.bundle.manifest import BundleManifest
from graftbox.bundle.tree import unpacked
from graftbox.bundle.verify import problems, verify
from graftbox.errors import FormatError, NotFoundError
from graftbox.store import Store

MakeElf = Callable[..., bytes]


@pytest.fixture
def content(make_elf: MakeElf) -> Content:
    """A bundle that is in order."""
    return {
        "lib/ld.so": File(make_elf(soname="ld-linux-x86-64.so.2"), executable=True),
        "lib/libc.so.6": File(make_elf(interpreter=rules.INTERPRETER, needed=["ld-linux-x86-64.so.2"])),
        "lib/x.libs/libq.so": File(make_elf()),
        "lib/x/c.so": File(make_elf(needed=["libq.so", "libc.so.6"], runpath="$ORIGIN/../x.libs")),
        "libexec/dash": File(make_elf(interpreter=rules.INTERPRETER, needed=["libc.so.6"]), executable=True),
        "bin/sh": Link("../libexec/dash"),
        "bin/x": File(b"#!/openhands/bin/sh -e\n", executable=True),
        "l": Link("lib"),
    }


@pytest.fixture
def made(content: Content, tmp_path: Path) -> tuple[BundleManifest, Store]:
    store = Store(tmp_path)
    layer = layers.write("core", "core", content, store)
    return BundleManifest("amd64", "tree", "sha256:0", ("core",), (layer,)), store


def test_a_bundle_in_order_has_no_problems(content: Content) -> None:
    assert problems(content, "amd64") == []


@pytest.mark.parametrize(
    ("path", "elf", "problem"),
    [
        ("libexec/a", {"interpreter": "/lib/ld-linux.so.2"}, "libexec/a starts through /lib/ld-linux.so.2"),
        ("lib/a.so", {"needed": ["libz.so.1"]}, "lib/a.so needs libz.so.1, which is not in the bundle"),
        ("lib/a.so", {"needed": ["libq.so"]}, "lib/a.so needs libq.so, which is not in the bundle"),
        ("lib/a.so", {"rpath": "/opt/lib"}, "lib/a.so searches libraries in /opt/lib"),
        ("lib/a.so", {"arch": "arm64"}, "lib/a.so is made for arm64"),
        (
            "lib/a.so",
            {"payload": b"\0/usr/lib/x86_64-linux-gnu/plugins\0"},
            "lib/a.so looks for files in the base image's library folder",
        ),
        (
            "lib/ld.so",
            {"payload": b"\x80\x38\x4c\x75\x40\x80\x78\x01\x44\x75\x3a\x80\x78\x02\x5f\x75\x34"},
            "lib/ld.so obeys LD_ variables",
        ),
    ],
)
def test_a_file_that_reaches_outside_is_named(
    content: Content, make_elf: MakeElf, path: str, elf: dict[str, object], problem: str
) -> None:
    content[path] = File(make_elf(**elf))
    assert problems(content, "amd64") == [problem]


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (Link("/bin/sh"), "x leads to /bin/sh, which is not in the bundle"),
        (Link("../../etc/passwd"), "x leads to ../../etc/passwd, which is not in the bundle"),
        (Link("gone"), "x leads to gone, which is not in the bundle"),
        (Link("x"), "x leads to x, which is not in the bundle"),
        (File(b"#!/bin/sh\n", executable=True), "x is a script for /bin/sh"),
        (
            File(b"#!/openhands/gone\n", executable=True),
            "x is a script for /openhands/gone, which is not in the bundle",
        ),
    ],
)
def test_links_and_scripts_must_stay_inside(content: Content, node: File | Link, problem: str) -> None:
    content["x"] = node
    assert problems(content, "amd64") == [problem]


def test_a_whole_bundle_is_counted(made: tuple[BundleManifest, Store]) -> None:
    report = verify(*made)
    assert (report.layers, report.files, report.programs, report.libraries, report.scripts) == (1, 8, 2, 3, 1)
    assert report.problems == ()


def test_a_file_in_two_layers_is_found(made: tuple[BundleManifest, Store], content: Content) -> None:
    manifest, store = made
    upper = layers.write("more", "more", {"l": content["l"], "m": Link("lib")}, store)
    twice = BundleManifest("amd64", "tree", "sha256:0", ("core", "more"), (*manifest.layers, upper))
    assert verify(twice, store).problems == ("l is in two layers, more and one below",)


def test_a_changed_byte_is_found(made: tuple[BundleManifest, Store]) -> None:
    manifest, store = made
    blob = store.blob_path(manifest.layers[0].digest)
    data = bytearray(blob.read_bytes())
    data[-9] ^= 1
    blob.write_bytes(data)
    (problem,) = verify(manifest, store).problems
    assert problem.startswith("The layer core is sha256:")


def test_a_missing_layer_is_named(made: tuple[BundleManifest, Store]) -> None:
    manifest, store = made
    store.blob_path(manifest.layers[0].digest).unlink()
    (problem,) = verify(manifest, store).problems
    assert problem.endswith("Run `graftbox bundle build`.")
    with pytest.raises(NotFoundError, match="Run `graftbox bundle build`"):
        unpacked(manifest, store)


def test_the_tree_is_unpacked_once_and_whole(made: tuple[BundleManifest, Store]) -> None:
    manifest, store = made
    folder = unpacked(manifest, store)
    assert unpacked(manifest, store) == folder
    assert (folder / "openhands/bin/sh").resolve() == folder / "openhands/libexec/dash"
    assert (folder / "openhands/bin/x").stat().st_mode & 0o7777 == 0o755
    assert (folder / "openhands/lib/libc.so.6").stat().st_mode & 0o7777 == 0o644


def test_a_cut_off_layer_leaves_no_tree(made: tuple[BundleManifest, Store]) -> None:
    manifest, store = made
    blob = store.blob_path(manifest.layers[0].digest)
    blob.write_bytes(blob.read_bytes()[:-30])
    with pytest.raises(FormatError, match="is damaged"):
        unpacked(manifest, store)
    assert [path.name for path in (store.root / "trees").iterdir()] == ["layers"]
    assert list((store.root / "tmp").iterdir()) == []

from __future__ import annotations

from graftbox.bundle import licences
from graftbox.bundle.content import Content, File, Link
from graftbox.bundle.lock import Entry, LockedPackage, LockedWheel


def package(name: str, source: str) -> LockedPackage:
    return LockedPackage(name, "1.0-2", "debian", f"pool/{name}.deb", 1, "0" * 64, source, "", ("core",))


ENTRIES: list[Entry] = [
    package("tool", "tool-src (1.0-1)"),
    package("libtool", "tool-src (1.0-1)"),
    package("unused", "other (3)"),
    LockedWheel("wheel", "1", "wheel-1.whl", 1, "0" * 64, ("core",)),
]


def staged() -> Content:
    return {
        "libexec/tool": File(b"program", True, "tool 1.0-2"),
        "share/doc/tool/copyright": File(b"GPL", origin="tool 1.0-2"),
        "share/doc/libtool/copyright": File(b"GPL", origin="libtool 1.0-2"),
        "share/doc/wheel/copyright": File(b"another", origin="wheel 1"),
        "other/copyright": File(b"GPL", origin="tool 1.0-2"),
    }


def test_the_same_text_is_kept_once() -> None:
    content = staged()
    licences.tidy(content, "core", ENTRIES)
    assert content["share/doc/tool/copyright"] == Link("../libtool/copyright")
    assert content["share/doc/libtool/copyright"] == staged()["share/doc/libtool/copyright"]
    assert content["other/copyright"] == staged()["other/copyright"]


def test_each_layer_lists_the_sources_of_the_packages_that_are_in_it() -> None:
    content = staged()
    licences.tidy(content, "core", ENTRIES)
    listed = content["share/doc/SOURCES.core"]
    assert isinstance(listed, File)
    assert listed.data.decode().splitlines()[-2:] == [
        "libtool 1.0-2: tool-src (1.0-1)",
        "tool 1.0-2: tool-src (1.0-1)",
    ]
    assert b"unused" not in listed.data
    assert b"://" not in listed.data


def test_a_layer_without_debian_packages_lists_none() -> None:
    content: Content = {"a.py": File(b"", origin="wheel 1")}
    licences.tidy(content, "mcp", ENTRIES)
    assert list(content) == ["a.py"]

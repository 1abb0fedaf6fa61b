from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from graftbox.bundle import pak
from graftbox.bundle.content import Content, File
from graftbox.errors import FormatError


def pack(entries: Sequence[bytes], version: int = 5) -> bytes:
    """A pack of these entries, numbered from 100, with the alias 99 for the second one."""
    alias = struct.pack("<HH", 99, 1)
    start = 12 + 6 * (len(entries) + 1) + len(alias)
    table, place = b"", start
    for number, entry in enumerate([*entries, b""]):
        table += struct.pack("<HI", 100 + number, place)
        place += len(entry)
    return struct.pack("<IB3xHH", version, 1, len(entries), 1) + table + alias + b"".join(entries)


def packed(count: int) -> list[bytes]:
    return [pak.BROTLI + str(number).encode() for number in range(count)]


def test_only_compressed_entries_after_the_first_are_emptied() -> None:
    protocol, *pages = packed(600)
    entries = [b"text", protocol, b"", *pages, b"more text"]
    emptied = [b"text", protocol, b"", *(b"" for _ in pages), b"more text"]
    assert pak.trimmed(pack(entries), "p") == pack(emptied)


def test_only_the_headless_pack_is_trimmed() -> None:
    data = pack(packed(600))
    content: Content = {"browser/headless_lib_strings.pak": File(data), "browser/other.pak": File(data)}
    pak.trim(content)
    assert content["browser/other.pak"] == File(data)
    assert content["browser/headless_lib_strings.pak"] == File(pak.trimmed(data, "p"))


@pytest.mark.parametrize("data", [pack(packed(600), version=4), pack(packed(3)), b"", pack(packed(600))[:80]])
def test_a_surprise_names_the_file(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"browser/headless_lib_strings\.pak of chromium 1\.2"):
        pak.trim({"browser/headless_lib_strings.pak": File(data, origin="chromium 1.2")})

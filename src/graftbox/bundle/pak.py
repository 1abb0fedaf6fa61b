"""Chromium's resource packs (``.pak``, format 5): drops the developer tools' pages out of the headless one.

A pack is a table of identifiers and offsets before the data. An emptied entry keeps its row, so that aliases,
which name rows by number, stay as they are. Layout after ui/base/resource/data_pack.cc of Chromium.
"""

from __future__ import annotations

import itertools
import posixpath
import struct
from dataclasses import replace

from graftbox.bundle.content import Content, files
from graftbox.errors import FormatError

NAME = "headless_lib_strings.pak"
HEADER, ENTRY = struct.Struct("<IB3xHH"), struct.Struct("<HI")
VERSION = 5
BROTLI = b"\x1e\x9b"
"""How compressed entries begin. In this pack they are the developer tools', about 850 of them."""
FEWEST = 500


def trim(content: Content) -> None:
    """Trims the headless pack of ``content``, if there is one."""
    for path, file in list(files(content)):
        if posixpath.basename(path) == NAME:
            content[path] = replace(file, data=trimmed(file.data, f"{path} of {file.origin}"))


def trimmed(data: bytes, name: str) -> bytes:
    """The pack without its compressed entries but the first, which describes the protocol that clients speak.

    A pack of another format, or with few such entries, is a `FormatError` that begins with ``name``.
    """
    try:
        version, _, count, _ = HEADER.unpack_from(data)
        rows = [ENTRY.unpack_from(data, HEADER.size + index * ENTRY.size) for index in range(count + 1)]
    except struct.error as error:
        raise FormatError(f"{name} is no resource pack: {error}. Fetch its package again.") from error
    pieces = [data[start:end] for (_, start), (_, end) in itertools.pairwise(rows)]
    packed = [index for index, piece in enumerate(pieces) if piece.startswith(BROTLI)]
    if version != VERSION or len(packed) < FEWEST:
        raise FormatError(
            f"{name} has format {version} and {len(packed)} compressed entries instead of {VERSION} and some "
            "hundreds. This version of the package is laid out differently; lock the earlier one, or report "
            "it."
        )
    for index in packed[1:]:
        pieces[index] = b""
    before = HEADER.size + (count + 1) * ENTRY.size
    place = rows[0][1]
    table = bytearray(data[: HEADER.size])
    for (identifier, _), piece in zip(rows, [*pieces, b""], strict=True):
        table += ENTRY.pack(identifier, place)
        place += len(piece)
    return bytes(table) + data[before : rows[0][1]] + b"".join(pieces)

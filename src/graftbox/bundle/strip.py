"""Stripping: drops what no program needs to run from ELF files: symbol tables, debug data, comments.

Like ``strip --strip-unneeded``, but the same bytes on every machine, for every architecture. All that a
loader maps stays where it is, byte for byte; what follows is dropped, moved up or written anew. Sections with
names that we do not know are kept. Layout after the System V ABI (gABI 4.1), chapter 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from graftbox.bundle import elf
from graftbox.bundle.content import Content, files
from graftbox.errors import FormatError

SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
ET_EXEC, ET_DYN = 2, 3
SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL, SHT_GROUP, SHT_SYMTAB_SHNDX = 2, 4, 8, 9, 17, 18
DROPPED_TYPES = {SHT_SYMTAB, SHT_RELA, SHT_REL, SHT_GROUP, SHT_SYMTAB_SHNDX}
DROPPED_NAMES = (
    ".comment", ".debug", ".gdb_index", ".gnu.build.attributes", ".gnu.debuglto_", ".gnu.lto_",
    ".gnu.warning.", ".gnu_debug", ".llvm", ".note.stapsdt", ".shstrtab", ".stab", ".strtab", ".zdebug",
)  # fmt: skip
"""How the names begin of what is dropped unless it is loaded. The table of names itself is made again."""
SHF_ALLOC, SHF_INFO_LINK = 0x2, 0x40
SIGNATURES = (".chk", ".hmac")
"""Files beside a library that hold its signature (NSS and GnuTLS in FIPS mode): such a one stays as it is."""
EMPTY = bytes(SECTION_HEADER.size)


@dataclass(frozen=True)
class Section:
    """A row of the section header table, with its name."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int

    @property
    def loaded(self) -> bool:
        return bool(self.flags & SHF_ALLOC)

    @property
    def end(self) -> int:
        """Where its bytes in the file end."""
        return self.offset + (0 if self.kind == SHT_NOBITS else self.size)

    @property
    def kept(self) -> bool:
        return self.loaded or not (self.kind in DROPPED_TYPES or self.name.startswith(DROPPED_NAMES))

    def packed(self, name: int, places: dict[int, int]) -> bytes:
        """The row with the offset of its name; ``places`` maps old indices of rows to new ones."""
        points = self.kind in (SHT_REL, SHT_RELA) or self.flags & SHF_INFO_LINK
        return SECTION_HEADER.pack(
            name,
            self.kind,
            self.flags,
            self.address,
            self.offset,
            self.size,
            places.get(self.link, 0),
            places.get(self.info, 0) if points else self.info,
            self.align,
            self.entry_size,
        )


def strip(content: Content) -> None:
    """Strips every program and library of ``content`` that is not signed."""
    for path, file in list(files(content)):
        stem = path.partition(".so")[0]
        if elf.is_elf(file.data) and not any(
            name + suffix in content for name in (stem, path) for suffix in SIGNATURES
        ):
            content[path] = replace(file, data=stripped(file.data, f"{path} of {file.origin}"))


def stripped(data: bytes, name: str) -> bytes:
    """The file without what it needs not; the same bytes if nothing would be gained or it is no program.

    ``name`` is for the `FormatError` that a damaged file raises.
    """
    try:
        smaller = _stripped(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise FormatError(f"{name} is not a usable ELF file: {error}. Fetch its package again.") from error
    return smaller if len(smaller) < len(data) else data


def _stripped(data: bytes) -> bytes:
    if data[:6] != elf.MAGIC + b"\x02\x01":
        raise ValueError("not 64-bit little-endian")
    (kind,) = struct.unpack_from("<H", data, 16)
    programs, table = struct.unpack_from("<QQ", data, 32)
    count, row_size, rows, names = struct.unpack_from("<HHHH", data, 56)
    if kind not in (ET_EXEC, ET_DYN) or not rows or row_size != SECTION_HEADER.size:
        return data
    sections = _sections(data, table, rows, names)
    headers = [
        elf.PROGRAM_HEADER.unpack_from(data, programs + i * elf.PROGRAM_HEADER.size) for i in range(count)
    ]
    end = max(
        programs + count * elf.PROGRAM_HEADER.size,
        *(header[2] + header[5] for header in headers),
        *(section.end for section in sections if section.loaded),
    )
    last = max(table + rows * SECTION_HEADER.size, end, *(section.end for section in sections))
    if last > len(data):
        raise ValueError("a section lies beyond its end")
    if data[last:].strip(b"\0"):
        return data  # something is appended to it, which may be found by its place
    return _written(data[:end], data, sections)


def _sections(data: bytes, table: int, count: int, names: int) -> list[Section]:
    rows = [SECTION_HEADER.unpack_from(data, table + i * SECTION_HEADER.size) for i in range(count)]
    strings = rows[names][4]

    def text(offset: int) -> str:
        start = strings + offset
        return data[start : data.index(b"\0", start)].decode("latin-1")

    return [Section(text(row[0]), *row[1:]) for row in rows]


def _written(loaded: bytes, data: bytes, sections: list[Section]) -> bytes:
    """``loaded``, the kept sections that are not in it, the table of names, and the section headers.

    Rows up to the last loaded section keep their indices, which the dynamic symbols refer to.
    """
    following = 1 + max((index for index, section in enumerate(sections) if section.loaded), default=0)
    made = bytearray(loaded)
    rows: dict[int, Section] = {}
    places: dict[int, int] = {}
    for index, section in enumerate(sections[1:], 1):
        if not section.kept:
            continue
        places[index] = index
        if index >= following:
            places[index], following = following, following + 1
        if section.loaded or section.end <= len(loaded):
            rows[places[index]] = section
        else:
            made += bytes(-len(made) % max(section.align, 1))
            rows[places[index]] = replace(section, offset=len(made))
            made += data[section.offset : section.end]
    names = bytearray(b"\0")
    packed = [EMPTY] * following
    for index, section in rows.items():
        packed[index] = section.packed(len(names), places)
        names += section.name.encode("latin-1") + b"\0"
    table = Section(".shstrtab", 3, 0, 0, len(made), 0, 0, 0, 1, 0)
    start = len(names)
    names += b".shstrtab\0"
    packed.append(replace(table, size=len(names)).packed(start, {}))
    made += names
    made += bytes(-len(made) % 8)
    struct.pack_into("<Q", made, 40, len(made))
    struct.pack_into("<HH", made, 60, len(packed), following)
    return bytes(made + b"".join(packed))

"""What an ELF file says about how it is loaded: interpreter, needed libraries, search paths.

Reads bytes, never executes or loads them. 64-bit little-endian only, which is all that amd64 and arm64 use.
Layout after the System V ABI (gABI 4.1), chapters 4 and 5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from graftbox.errors import FormatError

MAGIC = b"\x7fELF"
MACHINES = {62: "amd64", 183: "arm64"}
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SONAME, DT_RPATH, DT_RUNPATH = 0, 1, 5, 14, 15, 29
# An operating-system specific tag that no loader knows, so that none acts on it.
DT_IGNORED = 0x60000001
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
DYNAMIC = struct.Struct("<QQ")


@dataclass(frozen=True)
class Span:
    """A string in the file: ``offset`` and ``size`` in bytes, the size with its closing NUL."""

    offset: int
    size: int
    text: str


@dataclass(frozen=True)
class SearchPath:
    """A DT_RPATH or DT_RUNPATH: the offset of its dynamic entry, and its directories."""

    entry: int
    directories: tuple[str, ...]


@dataclass(frozen=True)
class Elf:
    """One file's facts. ``interpreter`` is None for libraries and static programs."""

    arch: str
    interpreter: Span | None = None
    soname: str | None = None
    needed: tuple[str, ...] = ()
    search_paths: tuple[SearchPath, ...] = ()


def is_elf(data: bytes) -> bool:
    return data[:4] == MAGIC


def parse(data: bytes, name: str) -> Elf:
    """The facts of an ELF file; ``name`` is for the `FormatError` that a damaged one raises."""
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise FormatError(f"{name} is not a usable ELF file: {error}. Fetch its package again.") from error


def _parse(data: bytes) -> Elf:
    if data[:6] != MAGIC + b"\x02\x01":
        raise ValueError("not 64-bit little-endian")
    (machine,) = struct.unpack_from("<H", data, 18)
    (table,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    if entry_size != PROGRAM_HEADER.size:
        raise ValueError(f"program headers of {entry_size} bytes")
    headers = [PROGRAM_HEADER.unpack_from(data, table + index * entry_size) for index in range(count)]
    arch = MACHINES.get(machine, f"machine {machine}")
    interpreter = None
    for kind, _flags, offset, _vaddr, _paddr, size, _memory, _align in headers:
        if kind == PT_INTERP:
            if offset + size > len(data):
                raise ValueError("its interpreter lies beyond its end")
            interpreter = Span(offset, size, data[offset : offset + size].split(b"\0")[0].decode())
    dynamic = [(header[2], header[5]) for header in headers if header[0] == PT_DYNAMIC]
    if not dynamic:
        return Elf(arch, interpreter)
    loads = [(header[3], header[5], header[2]) for header in headers if header[0] == PT_LOAD]
    entries = _dynamic(data, *dynamic[0])
    strings = next((_file_offset(loads, value) for _, tag, value in entries if tag == DT_STRTAB), 0)

    def text(value: int) -> str:
        start = strings + value
        return data[start : data.index(b"\0", start)].decode()

    return Elf(
        arch,
        interpreter,
        soname=next((text(value) for _, tag, value in entries if tag == DT_SONAME), None),
        needed=tuple(text(value) for _, tag, value in entries if tag == DT_NEEDED),
        search_paths=tuple(
            SearchPath(offset, tuple(text(value).split(":")))
            for offset, tag, value in entries
            if tag in (DT_RPATH, DT_RUNPATH)
        ),
    )


def _dynamic(data: bytes, offset: int, size: int) -> list[tuple[int, int, int]]:
    """File offset, tag and value of each dynamic entry before the closing DT_NULL."""
    entries = []
    for position in range(offset, offset + size, DYNAMIC.size):
        tag, value = DYNAMIC.unpack_from(data, position)
        if tag == DT_NULL:
            break
        entries.append((position, tag, value))
    return entries


def _file_offset(loads: list[tuple[int, int, int]], address: int) -> int:
    for start, size, offset in loads:
        if start <= address < start + size:
            return address - start + offset
    raise ValueError(f"address {address:#x} is in no segment")


def set_interpreter(data: bytearray, elf: Elf, path: str) -> None:
    """Overwrites the interpreter in place, padding with NULs; `ValueError` if it does not fit."""
    assert elf.interpreter is not None
    encoded = path.encode()
    if len(encoded) >= elf.interpreter.size:
        raise ValueError(f"{path} does not fit into the {elf.interpreter.size} bytes of the interpreter")
    start = elf.interpreter.offset
    data[start : start + elf.interpreter.size] = encoded.ljust(elf.interpreter.size, b"\0")


def ignore_search_path(data: bytearray, path: SearchPath) -> None:
    """Makes loaders ignore a DT_RPATH or DT_RUNPATH by giving its entry a tag that means nothing."""
    struct.pack_into("<Q", data, path.entry, DT_IGNORED)

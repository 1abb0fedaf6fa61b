"""The portable browser: Chromium out of a bundle, moved to a folder of its own at any path.

The bundle's files lead to ``/openhands`` by paths of fixed length, which another folder's name may not fit
into. So its programs find their libraries from where they are (``$ORIGIN``), and only the kernel needs the
folder's whole name, for the loader: it stands at the end of each program, where it may have any length.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graftbox.bundle import elf
from graftbox.errors import FormatError, UsageError
from graftbox.store import storage_errors

PROGRAM = "chromium"
CHROMIUM, DASH, LOADER = "browser/chromium-headless-shell", "libexec/dash", "lib/ld.so"
WRAPPER = "bin/oh-chromium"
VIEWER = "browser/pdfjs/"
"""What the server shows PDFs with; stays behind."""
# What no ELF file names, because it is opened by name: NSS's modules, the C library's for names and users.
OPENED = (
    *("libsoftokn3.so", "libfreebl3.so", "libfreeblpriv3.so", "libnssckbi.so"),
    *("libgcc_s.so.1", "libnss_compat.so.2", "libnss_dns.so.2", "libnss_files.so.2"),
)
LIBRARIES = "$ORIGIN/../lib"
# Both have ten bytes, and nothing is below the second one.
BUNDLE, NOWHERE = b"/openhands", b"/dev/null/"
# The kernel reads 127 bytes of a script's first line before Linux 5.1.
LONGEST = 127 - len(f"#!/{DASH}\n")
DT_DEBUG = 21


def write(tree: Path, folder: Path, target: str | None = None) -> Path:
    """Writes the browser of ``tree``, an unpacked /openhands with the component ``browser``, to ``folder``.

    Returns the program in it, for Playwright's ``executable_path``. ``target`` is where the folder will be
    when it is used, if that is not where it is written. The folder is there whole or not at all.
    """
    target = checked(target or str(folder.absolute()))
    with storage_errors(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(f"{folder} is not an empty folder. Name a new one, or delete what is in it.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for path in _files(tree):
                _write(tree, path, temporary, target)
            (temporary / PROGRAM).write_text(_text(tree / WRAPPER, target))
            (temporary / PROGRAM).chmod(0o755)
            temporary.chmod(0o755)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder / PROGRAM


def checked(target: str) -> str:
    """The absolute path of a folder that the kernel and a shell can be told; else a `UsageError`."""
    if not re.fullmatch(r"(/[\w.+,@=:-]+)+", target, re.ASCII):
        raise UsageError(
            f"The browser cannot be at {target!r}: its path must be absolute, and of letters, digits and "
            "_.+,@=:- only. Name another folder."
        )
    if len(target) > LONGEST:
        raise UsageError(
            f"The browser cannot be at {target}: the path may have {LONGEST} characters, not {len(target)}. "
            "Name another folder."
        )
    return target


def _files(tree: Path) -> Iterator[str]:
    """What the browser consists of: its folder, the shell of its wrapper, their libraries, all licences."""
    found = [path.relative_to(tree).as_posix() for path in sorted((tree / "browser").rglob("*"))]
    found = [path for path in found if not ((tree / path).is_dir() or path.startswith(VIEWER))]
    if CHROMIUM not in found:
        raise UsageError(f"{tree} has no browser. Build a bundle with the component browser.")
    programs = [DASH, *found]
    yield from programs
    libraries = [f"lib/{name}" for name in OPENED if (tree / "lib" / name).exists()]
    queue, seen = [*programs, *libraries], {LOADER, *libraries}
    while queue:
        path = queue.pop()
        with (tree / path).open("rb") as stream:
            if stream.read(4) != elf.MAGIC:
                continue
        for name in elf.parse((tree / path).read_bytes(), path).needed:
            library = f"lib/{name}"
            if library not in seen and not name.startswith("ld-linux"):  # which the loader itself is
                seen.add(library)
                queue.append(library)
    yield from sorted(seen)
    yield from sorted(path.relative_to(tree).as_posix() for path in (tree / "share/doc").glob("*/copyright"))


def _write(tree: Path, path: str, folder: Path, target: str) -> None:
    source, destination = tree / path, folder / path
    destination.parent.mkdir(parents=True, exist_ok=True)
    if path.endswith(".conf"):
        destination.write_text(_text(source, target))
        return
    data = source.read_bytes()
    if elf.is_elf(data):
        data = relocated(data, path, target)
    destination.write_bytes(data)
    destination.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _text(path: Path, target: str) -> str:
    return path.read_text().replace(BUNDLE.decode(), target)


def relocated(data: bytes, path: str, target: str) -> bytes:
    """One ELF file of the bundle for use below ``target``."""
    facts = elf.parse(data, path)
    moved = bytearray(data.replace(BUNDLE + b"/", NOWHERE + b"/"))
    if facts.interpreter is None or facts.soname:  # the C library has one too
        return bytes(moved)
    try:
        _search_beside(moved, facts.interpreter)
        _start_through(moved, posixpath.join(target, LOADER))
    except (struct.error, StopIteration, ValueError) as error:
        raise FormatError(f"{path} cannot be moved: {error!r}. Report it.") from error
    return bytes(moved)


def _headers(data: bytearray) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each program header with its offset."""
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for offset in range(table, table + size * count, size):
        yield offset, elf.PROGRAM_HEADER.unpack_from(data, offset)


def _search_beside(data: bytearray, interpreter: elf.Span) -> None:
    """Puts `LIBRARIES` where the interpreter's name was; the entry for debuggers becomes a DT_RPATH to it.

    A string's place is relative to the string table, and may well be before it: the sum wraps around.
    """
    text = LIBRARIES.encode() + b"\0"
    if len(text) > interpreter.size:
        raise ValueError("no room for the search path")
    data[interpreter.offset : interpreter.offset + interpreter.size] = text.ljust(interpreter.size, b"\0")
    address = next(header[3] for _, header in _headers(data) if header[0] == elf.PT_INTERP)
    dynamic = next(header for _, header in _headers(data) if header[0] == elf.PT_DYNAMIC)
    places = range(dynamic[2], dynamic[2] + dynamic[5], elf.DYNAMIC.size)
    entries = {elf.DYNAMIC.unpack_from(data, place)[0]: place for place in reversed(places)}
    strings = elf.DYNAMIC.unpack_from(data, entries[elf.DT_STRTAB])[1]
    if DT_DEBUG not in entries:
        raise ValueError("no entry to spare")
    elf.DYNAMIC.pack_into(data, entries[DT_DEBUG], elf.DT_RPATH, (address - strings) % (1 << 64))


def _start_through(data: bytearray, loader: str) -> None:
    """Appends the loader's name, which only the kernel reads, from the file: no segment has to hold it."""
    place = next(offset for offset, header in _headers(data) if header[0] == elf.PT_INTERP)
    kind, flags, _, virtual, physical, _, _, align = elf.PROGRAM_HEADER.unpack_from(data, place)
    name = loader.encode() + b"\0"
    header = (kind, flags, len(data), virtual, physical, len(name), len(name), align)
    elf.PROGRAM_HEADER.pack_into(data, place, *header)
    data += name

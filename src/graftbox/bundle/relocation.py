"""Relocation: makes Debian's programs start through the bundle's loader and look only inside the bundle.

Bytes are replaced in place, same length, with every match counted; what is replaced is data in `rules`.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace

from graftbox.bundle import elf, rules
from graftbox.bundle.content import Content, File, files
from graftbox.errors import FormatError


def relocate(content: Content, arch: str) -> None:
    """Relocates every program, library and shell script of ``content``."""
    for path, file in list(files(content)):
        if elf.is_elf(file.data):
            content[path] = replace(file, data=relocated(path, file, arch))
        elif file.executable and file.data.startswith(b"#!"):
            content[path] = replace(file, data=with_our_shebang(file.data))


def with_our_shebang(script: bytes) -> bytes:
    """The script, started by the bundle's interpreter if it has that; `verify` finds the others."""
    line, end, rest = script.partition(b"\n")
    if (named := line[2:].strip()) in rules.NAMED_SHEBANGS:
        return b"#!" + rules.NAMED_SHEBANGS[named] + end + rest
    interpreter, _, argument = line[2:].strip().partition(b" ")
    ours = rules.SHEBANGS.get(interpreter, interpreter)
    return b"#!" + ours + (b" " + argument if argument else b"") + end + rest


def relocated(path: str, file: File, arch: str) -> bytes:
    """The bytes of one ELF file after relocation; a surprise is a `FormatError`."""
    facts = elf.parse(file.data, path)
    if facts.arch != arch:
        raise FormatError(f"{path} of {file.origin} is made for {facts.arch}, not {arch}; lock again.")
    data = bytearray(file.data)
    if facts.interpreter is not None:
        elf.set_interpreter(data, facts, rules.INTERPRETER)
    for search in facts.search_paths:
        if not all(directory.startswith("$ORIGIN") for directory in search.directories):
            elf.ignore_search_path(data, search)
    for patch in rules.patches(posixpath.basename(path), arch):
        apply(data, patch, f"{path} of {file.origin}")
    return bytes(data)


def apply(data: bytearray, patch: rules.Patch, name: str) -> None:
    """Applies one patch in place, or raises `FormatError` if it matches more or less often than it should."""
    matches = list(re.finditer(patch.pattern, data, re.DOTALL))
    if len(matches) != patch.count:
        raise FormatError(
            f"{name}: the patch {patch.what!r} matches {len(matches)} times instead of {patch.count}. "
            "This version of the package is laid out differently; lock the earlier one, or report it."
        )
    spans = [match.span(1 if match.re.groups else 0) for match in matches]
    for start, end in spans:
        if end - start != len(patch.replacement):
            raise FormatError(f"{name}: the patch {patch.what!r} would change the file's length; report it.")
        data[start:end] = patch.replacement

"""The judge of what an ELF file says is pyelftools."""

from __future__ import annotations

import io
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftbox.bundle import elf
from graftbox.errors import FormatError

MakeElf = Callable[..., bytes]


def judged(data: bytes) -> dict[str, object]:
    """Interpreter, soname, needed names and search paths as pyelftools reads them."""
    facts: dict[str, object] = {"interpreter": None, "soname": None, "needed": [], "paths": []}
    needed: list[str] = []
    paths: list[str] = []
    for segment in ELFFile(io.BytesIO(data)).iter_segments():
        if isinstance(segment, InterpSegment):
            facts["interpreter"] = segment.get_interp_name()
        if isinstance(segment, DynamicSegment):
            tags: Iterator[Any] = segment.iter_tags()
            for tag in tags:
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(tag.needed)
                elif tag.entry.d_tag == "DT_SONAME":
                    facts["soname"] = tag.soname
                elif tag.entry.d_tag == "DT_RPATH":
                    paths.append(tag.rpath)
                elif tag.entry.d_tag == "DT_RUNPATH":
                    paths.append(tag.runpath)
    return facts | {"needed": needed, "paths": paths}


def read(data: bytes) -> dict[str, object]:
    facts = elf.parse(data, "it")
    return {
        "interpreter": facts.interpreter.text if facts.interpreter else None,
        "soname": facts.soname,
        "needed": list(facts.needed),
        "paths": [":".join(search.directories) for search in facts.search_paths],
    }


def real_files() -> list[Path]:
    folders = [Path(sysconfig.get_path("platstdlib")), Path(sysconfig.get_path("platlib"))]
    found = [path for folder in folders for path in sorted(folder.rglob("*.so*"))[:40]]
    return [Path(sys.executable).resolve(), *found]


def test_real_files_are_read_as_pyelftools_reads_them() -> None:
    checked = 0
    for path in real_files():
        data = path.read_bytes()
        if elf.is_elf(data):
            assert read(data) == judged(data), path
            checked += 1
    assert checked > 10


def test_every_field_is_found(make_elf: MakeElf) -> None:
    data = make_elf("arm64", "/lib/ld.so", ["libc.so.6", "libm.so.6"], "libx.so.1", "/a:$ORIGIN/b", "/c")
    facts = elf.parse(data, "it")
    assert facts.arch == "arm64"
    assert read(data) == judged(data)
    assert read(data)["paths"] == ["/a:$ORIGIN/b", "/c"]


def test_a_static_program_has_neither_interpreter_nor_needs(make_elf: MakeElf) -> None:
    assert elf.parse(make_elf(), "init").interpreter is None


def test_the_interpreter_is_replaced_in_place(make_elf: MakeElf) -> None:
    data = make_elf(interpreter="/lib64/ld-linux-x86-64.so.2", needed=["libc.so.6"])
    changed = bytearray(data)
    elf.set_interpreter(changed, elf.parse(data, "it"), "/openhands/lib/ld.so")
    assert len(changed) == len(data)
    assert judged(bytes(changed)) == judged(data) | {"interpreter": "/openhands/lib/ld.so"}


def test_an_interpreter_that_does_not_fit_is_refused(make_elf: MakeElf) -> None:
    data = make_elf(interpreter="/lib/ld.so")
    with pytest.raises(ValueError, match="does not fit"):
        elf.set_interpreter(bytearray(data), elf.parse(data, "it"), "/openhands/lib/ld.so")


def test_an_ignored_search_path_is_none_for_other_readers(make_elf: MakeElf) -> None:
    data = make_elf(needed=["libc.so.6"], runpath="/usr/lib/private")
    changed = bytearray(data)
    (search,) = elf.parse(data, "it").search_paths
    elf.ignore_search_path(changed, search)
    assert judged(bytes(changed)) == judged(data) | {"paths": []}


def test_a_file_for_32_bits_is_refused(make_elf: MakeElf) -> None:
    data = bytearray(make_elf())
    data[4] = 1
    with pytest.raises(FormatError, match=r"old\.so is not a usable ELF file"):
        elf.parse(bytes(data), "old.so")


def test_a_program_header_table_beyond_any_file_is_a_format_error(make_elf: MakeElf) -> None:
    data = bytearray(make_elf(interpreter="/lib/ld.so"))
    data[32:40] = b"\xff" * 8
    with pytest.raises(FormatError):
        elf.parse(bytes(data), "it")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_a_format_error_or_harmless(make_elf: MakeElf, draw: st.DataObject) -> None:
    data = bytearray(make_elf(interpreter="/lib/ld.so", needed=["libc.so.6"], soname="libx", runpath="/x"))
    for _ in range(draw.draw(st.integers(0, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    del data[draw.draw(st.integers(0, len(data))) :]
    try:
        elf.parse(bytes(data), "it")
    except FormatError:
        return

"""Stripping: smaller files that load, run and link as before; what is signed or appended to stays."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graftbox.bundle import elf
from graftbox.bundle.content import Content, File
from graftbox.bundle.strip import SECTION_HEADER, strip, stripped
from graftbox.errors import FormatError

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs the program gcc")
Build = Callable[..., Path]
SOURCE = """
#include <stdio.h>
static int counter = 41;
static __attribute__((noinline)) int hidden_helper(int x) { return x + counter++; }
int answer(int x) { return hidden_helper(x); }
int main(int argc, char **argv) { printf("%d\\n", answer(argc)); return 0; }
"""
ODD = '__asm__(".pushsection pydata,\\"\\",@progbits\\n.ascii \\"kept payload\\"\\n.popsection");\n'


@pytest.fixture
def built(tmp_path: Path) -> Build:
    def build(*options: str, source: str = SOURCE) -> Path:
        code, result = tmp_path / "code.c", tmp_path / "result"
        code.write_text(source)
        subprocess.run(["gcc", "-g", "-O1", *options, "-o", result, code], check=True)
        return result

    return build


def names(data: bytes) -> list[str]:
    (table,) = struct.unpack_from("<Q", data, 40)
    count, own = struct.unpack_from("<HH", data, 60)
    rows = [SECTION_HEADER.unpack_from(data, table + index * SECTION_HEADER.size) for index in range(count)]
    strings = data[rows[own][4] : rows[own][4] + rows[own][5]]
    return [strings[row[0] :].split(b"\0")[0].decode() for row in rows if row[1]]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o755)
    return path


@needs_gcc
@pytest.mark.parametrize(
    "options", [(), ("-static",), ("-no-pie",), ("-Wl,--emit-relocs",), ("-Wl,-z,separate-code",)]
)
def test_a_program_runs_without_its_symbols_and_debug_data(
    built: Build, tmp_path: Path, options: tuple[str, ...]
) -> None:
    whole = built(*options)
    data = stripped(whole.read_bytes(), "result")
    small = written(tmp_path / "small", data)
    assert subprocess.check_output([small, "x"]) == b"43\n"
    assert len(data) < whole.stat().st_size
    assert b"hidden_helper" not in data
    assert not [name for name in names(data) if name.startswith((".debug", ".symtab", ".strtab", ".comment"))]
    assert ".text" in names(data)
    assert elf.parse(data, "small") == elf.parse(whole.read_bytes(), "whole")


@needs_gcc
def test_a_library_still_exports_its_functions_and_can_be_linked_against(
    built: Build, tmp_path: Path
) -> None:
    library = built("-shared", "-fPIC", "-Wl,-soname,libanswer.so")
    small = written(tmp_path / "libanswer.so", stripped(library.read_bytes(), "result"))
    assert ctypes.CDLL(str(small)).answer(1) == 42
    user = built(
        f"-L{tmp_path}",
        "-lanswer",
        f"-Wl,-rpath,{tmp_path}",
        source="int answer(int);int main(){return answer(1);}",
    )
    assert subprocess.run([user]).returncode == 42


@needs_gcc
def test_a_section_that_we_do_not_know_is_kept(built: Build, tmp_path: Path) -> None:
    data = stripped(built(source=ODD + SOURCE).read_bytes(), "result")
    assert names(data)[-2:] == ["pydata", ".shstrtab"]
    assert b"kept payload" in data
    assert subprocess.check_output([written(tmp_path / "small", data)]) == b"42\n"


@needs_gcc
def test_what_binutils_says_of_the_stripped_file_is_what_it_said_of_the_whole(
    built: Build, tmp_path: Path
) -> None:
    whole = built("-shared", "-fPIC")
    small = written(tmp_path / "small", stripped(whole.read_bytes(), "result"))

    def said(path: Path) -> list[str]:
        done = subprocess.run(
            ["readelf", "--wide", "--segments", "--dyn-syms", "--dynamic", "--notes", "--version-info", path],
            check=True,
            capture_output=True,
            text=True,
        )
        assert not done.stderr
        return done.stdout.splitlines()

    assert said(small) == said(whole)


@needs_gcc
def test_stripping_twice_changes_nothing_more(built: Build) -> None:
    once = stripped(built().read_bytes(), "result")
    assert stripped(once, "result") == once


@needs_gcc
def test_a_program_with_something_appended_stays_as_it_is(built: Build) -> None:
    data = built().read_bytes() + b"an archive that the program finds by its place"
    assert stripped(data, "result") is data


@needs_gcc
def test_an_object_file_keeps_its_symbols(built: Build) -> None:
    data = built("-c").read_bytes()
    assert stripped(data, "result") is data


@needs_gcc
def test_a_signed_library_stays_as_it_is(built: Build) -> None:
    data = built("-shared", "-fPIC").read_bytes()
    content: Content = {
        name: File(data, origin="nss 3") for name in ("lib/libsigned.so.3", "lib/libfree.so", "lib/libmac.so")
    }
    content |= {"lib/libsigned.chk": File(b"signature"), "lib/libmac.so.hmac": File(b"signature")}
    before = dict(content)
    strip(content)
    assert [path for path in content if content[path] != before[path]] == ["lib/libfree.so"]


def test_this_python_runs_stripped(tmp_path: Path) -> None:
    whole = Path(sys.executable).resolve().read_bytes()
    small = written(tmp_path / "python", stripped(whole, "python"))
    assert subprocess.run([sys.executable, "-c", ""], executable=small).returncode == 0
    assert small.stat().st_size <= len(whole)


@pytest.mark.parametrize("cut", [20, 60, 100, -8])
def test_a_damaged_file_is_refused_or_left_alone(cut: int) -> None:
    data = Path(sys.executable).resolve().read_bytes()[:cut]
    with pytest.raises(FormatError, match="is not a usable ELF file"):
        stripped(data, "python")

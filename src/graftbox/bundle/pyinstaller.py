"""Freezes the server and its CPython into a PyInstaller folder, and moves it onto the bundle's loader.

PyInstaller runs inside the bundle's own CPython, unpacked into a temporary folder and started through its own
loader, so that neither Python nor libraries of the build machine take part. What it collects is said by the
spec file and the hook in `graftbox.freezing`.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from graftbox.bundle import deb, layers, relocation, strip, whl
from graftbox.bundle.content import Content, File, Link, files
from graftbox.bundle.lock import Entry, LockedPackage, LockedWheel
from graftbox.errors import FormatError, UnsupportedError
from graftbox.store import Store

NAME = "action-execution-server"
PLACE = "code/server"
"""The folder that PyInstaller makes, in the bundle."""
LINKS = {
    f"bin/{NAME}": f"../{PLACE}/{NAME}",
    "libexec/python3.13": f"../{PLACE}/{NAME}",
}
"""What the program is called where the tree has the server's script and the interpreter."""
LIBRARY = "libpython3.13.so.1.0"
FREEZING = Path(__file__).parents[1] / "freezing"
SPEC = FREEZING / f"{NAME}.spec"
HOOK = FREEZING / "hook-graftbox.server.py"
PROGRAM = Path(__file__).with_name("pyinstaller_program.py")
TAKEN = r"^(lib/python3\.13/dist-packages|lib|code)/"
"""Where in a tree those files are that PyInstaller takes over as they are, below a folder of its own."""
SHELL = "/bin/sh"
PATIENCE = 1800.0
"""Seconds that PyInstaller may take."""


def frozen(tree: Content, tools: Mapping[Entry, Path], arch: str, store: Store) -> Content:
    """The server's folder and its names, made of a whole tree of this machine's architecture.

    ``tools``: the package with CPython's library, and PyInstaller's wheels.
    """
    if not os.access(SHELL, os.X_OK):
        raise UnsupportedError(f"Building the flavour pyinstaller needs {SHELL} on this machine.")
    licences: Content = {}
    with store.temporary_folder() as folder:
        _unpack(folder, tree)
        for entry, path in tools.items():
            _unpack_tool(folder, entry, path, licences)
        _run(folder)
        content = folder_content(folder / "work" / "dist" / NAME, tree)
    return relocated(content, arch) | licences


def relocated(content: Content, arch: str) -> Content:
    """A folder of PyInstaller's, at its place in the bundle, moved onto the bundle's loader."""
    program = f"{PLACE}/{NAME}"
    own = {program: content[program]}
    relocation.relocate(own, arch)
    libraries = {path: node for path, node in content.items() if posixpath.basename(path) == LIBRARY}
    strip.strip(libraries)
    return content | own | libraries | {path: Link(target) for path, target in LINKS.items()}


def moved(folder: Path, tree: Content, arch: str) -> Content:
    """The same of a folder that PyInstaller has made elsewhere, on a machine with libraries of its own.

    A library that the bundle has too is the bundle's; others become known to the bundle's loader by a link.
    """
    content = relocated(folder_content(folder, tree), arch)
    collected = [posixpath.dirname(path) for path in content if path.endswith("/base_library.zip")]
    if not collected:
        raise FormatError(f"{folder} has no base_library.zip: it is not what PyInstaller makes of a program.")
    for path, node in list(content.items()):
        place, name = posixpath.split(path)
        if place == collected[0] and re.fullmatch(r"lib[^/]+\.so[.0-9]*", name):
            if f"lib/{name}" in tree:
                del content[path]
            elif isinstance(node, File):
                content[f"lib/{name}"] = Link(f"../{path}")
    return content


def folder_content(folder: Path, tree: Content) -> Content:
    """The files that PyInstaller has made, and those of the tree that it has taken, as they are there."""
    known = {re.sub(TAKEN, "", path): file for path, file in files(tree)}
    content: Content = {}
    for path in sorted(folder.rglob("*")):
        name = f"{PLACE}/{path.relative_to(folder).as_posix()}"
        if path.is_symlink():
            content[name] = Link(str(path.readlink()))
        elif path.is_file():
            taken = known.get("/".join(path.relative_to(folder).parts[1:]))
            executable = taken.executable if taken else path == folder / NAME
            content[name] = File(path.read_bytes(), executable, taken.origin if taken else "pyinstaller")
    if f"{PLACE}/{NAME}" not in content:
        raise FormatError(f"PyInstaller has left no program in {folder}; report it.")
    return content


def _unpack(folder: Path, tree: Content) -> None:
    """CPython with all packages and the server's code, as on any machine: ``bin``, ``lib`` and ``code``."""
    for path, file in files(tree):
        head, _, name = path.partition("/")
        is_library = head == "lib" and ("/" not in name or name.startswith("python3.13/"))
        if (is_library and "/__pycache__/" not in path) or head == "code" or path == "libexec/python3.13":
            _write(folder / path, file.data)
    python = folder / "bin" / "python3.13"
    loader, library, program = folder / "lib" / "ld.so", folder / "lib", folder / "libexec" / "python3.13"
    command = [str(loader), "--library-path", str(library), "--argv0", str(python), str(program)]
    _write(python, f'#!{SHELL}\nexec {shlex.join(command)} "$@"\n'.encode())
    for executable in (python, loader, program):
        executable.chmod(0o755)


def _unpack_tool(folder: Path, entry: Entry, path: Path, licences: Content) -> None:
    origin = f"{entry.name} {entry.version}"
    if isinstance(entry, LockedPackage):
        library = f"/{LIBRARY}"
        for _, node in deb.nodes(path, origin, lambda name: name.endswith(library)):
            if isinstance(node, File):
                _write(folder / "lib" / LIBRARY, node.data)
    elif isinstance(entry, LockedWheel):
        for name, file in whl.nodes(path, origin):
            _write(folder / "tools" / name, file.data)
            top, _, rest = name.partition(".dist-info/")
            # The bootloader and the importer are PyInstaller's and in the program.
            if rest and entry.name == "pyinstaller" and ("COPYING" in rest or rest == "METADATA"):
                licences[f"share/doc/{entry.name}/{top}.dist-info/{rest}"] = file


def _run(folder: Path) -> None:
    environment = {
        "HOME": str(folder),
        "PATH": os.defpath,
        "PYINSTALLER_CONFIG_DIR": str(folder / "work"),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": f"{folder}/code:{folder}/tools",
        "SOURCE_DATE_EPOCH": str(layers.MTIME),
    }
    spec = folder / "freezing" / SPEC.name
    for path in (SPEC, HOOK):
        _write(spec.with_name(path.name), path.read_bytes())
    command = [str(folder / "bin" / "python3.13"), "-BsXutf8", str(PROGRAM), str(spec)]
    done = subprocess.run(
        [*command, str(folder / "lib" / LIBRARY), str(folder / "work")],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()[-1000:]
        raise FormatError(f"PyInstaller failed with exit code {done.returncode}: {said}")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

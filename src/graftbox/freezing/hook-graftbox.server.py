"""What PyInstaller collects for the server: a rule and no list.

The server imports by name, and cells may import anything. So all of the standard library goes in, all of the
environment, and the server's sources too, as it runs some of them by path.
"""

from __future__ import annotations

import importlib.machinery
import os
from collections.abc import Container, Iterator
from pathlib import Path

import h11

import graftbox.server

CODE = Path(graftbox.server.__file__).parents[2]
SITE = Path(h11.__file__).parents[1]
STANDARD = Path(os.__file__).parent
SUFFIXES = (*importlib.machinery.EXTENSION_SUFFIXES, ".py")
# Of the standard library: what other programs than ours are made of.
UNUSED = {
    "__phello__", "antigravity.py", "dist-packages", "ensurepip", "idlelib", "lib-dynload", "pydoc_data",
    "site-packages", "sitecustomize.py", "test", "this.py", "tkinter", "turtle.py", "turtledemo",
}  # fmt: skip
# Of the environment: what freezes, and what only compilers read.
TOOLS = {
    "PyInstaller", "_distutils_hack", "_pyinstaller_hooks_contrib", "altgraph", "bin", "graftbox",
    "pkg_resources", "setuptools",
}  # fmt: skip
READ_BY_COMPILERS = (".c", ".h", ".pth", ".pxd", ".pxi", ".pyi", ".pyx", "py.typed")


def files(folder: Path, without: Container[str] = ()) -> Iterator[tuple[Path, Path]]:
    """Each file, with its path below the folder; not what ``without`` names at the top."""
    for place, folders, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        unwanted = without if place == str(folder) else ()
        folders[:] = sorted(name for name in folders if name != "__pycache__" and name not in unwanted)
        for name in sorted(names):
            if name not in unwanted:
                yield Path(place, name), below / name


def module(relative: Path) -> str | None:
    """The name by which a file is imported."""
    for suffix in SUFFIXES:
        if relative.name.endswith(suffix):
            parts = [*relative.parts[:-1], relative.name.removesuffix(suffix)]
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            return ".".join(parts) if parts and all(map(str.isidentifier, parts)) else None
    return None


def collected() -> tuple[set[str], list[tuple[str, str]]]:
    """Modules, and data with its place."""
    modules: set[str | None] = set()
    data = []
    for folder in filter(Path.is_dir, (STANDARD, STANDARD / "lib-dynload")):
        modules |= {module(relative) for _, relative in files(folder, UNUSED)}
    for path, relative in files(SITE, TOOLS):
        name = module(relative)
        modules.add(name)
        if name is None and not relative.name.endswith(READ_BY_COMPILERS):
            data.append((str(path), str(relative.parent)))
    for path, relative in files(CODE / "graftbox"):
        if relative.parts[0] in {"server", "wire"}:
            modules.add(module("graftbox" / relative))
            data.append((str(path), str("graftbox" / relative.parent)))
    return {name for name in modules if name}, data


found, datas = collected()
hiddenimports = sorted(found)
excludedimports = sorted(TOOLS - {"bin", "graftbox"})

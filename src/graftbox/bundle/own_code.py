"""Our own files that bundles are made of or made by: what is in the keys under which layers are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from graftbox.errors import NotFoundError

PACKAGE = Path(__file__).parent.parent
SERVER = ("__init__.py", "errors.py", "wire", "server")
"""What the server layer holds."""
BUILDER = tuple(
    f"bundle/{name}.py"
    for name in (
        "archive",
        "bytecode",
        "compiler_program",
        "compression",
        "content",
        "deb",
        "elf",
        "estargz",
        "inventory",
        "layers",
        "libraries",
        "licences",
        "native",
        "native_modules",
        "pak",
        "parallel",
        "plan",
        "relocation",
        "rules",
        "stage",
        "strip",
        "tgz",
        "whl",
        "zig",
    )
)
"""What decides the bytes of every other layer."""
MERGER = ("bundle/merging.py", "bundle/layers.py", "bundle/compression.py", "bundle/estargz.py")
"""What decides the bytes of a merged layer, beside the layers."""


def files(names: Iterable[str]) -> list[Path]:
    """The files of our own package with these names or below these folders, sorted."""
    found: list[Path] = []
    for name in names:
        path = PACKAGE / name
        if path.is_dir():
            found += [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        elif path.is_file():
            found.append(path)
        else:
            raise NotFoundError(f"graftbox's own file {path} is missing. Install graftbox again.")
    return sorted(found)


def digest(names: Iterable[str]) -> str:
    """Bare hex digest of their names and bytes."""
    sha = hashlib.sha256()
    for path in files(names):
        data = path.read_bytes()
        sha.update(f"{path.relative_to(PACKAGE)} {len(data)}\n".encode() + data)
    return sha.hexdigest()

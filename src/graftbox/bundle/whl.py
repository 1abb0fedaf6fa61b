"""Reads wheels: zip archives with the files of one Python project (PyPA binary distribution format, 1.0).

Pure and platform files end up in one folder; scripts, headers and data are not taken, as nothing runs them.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from graftbox.bundle.content import File
from graftbox.errors import FormatError

# RECORD lists files that an installer would have made.
DROPPED = ("/RECORD", "/WHEEL", "/INSTALLER")
UNUSED_FOLDERS = {"test", "tests"}
UNUSED_FILES = (".c", ".cc", ".cpp", ".exe", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx")


def is_used(name: str) -> bool:
    """Whether a program may open the file: no test, type stub, C source or Windows program of a package."""
    top, *folders = name.split("/")[:-1] or [""]
    if top.endswith(".dist-info"):
        return True
    return not UNUSED_FOLDERS & set(folders) and not name.endswith(UNUSED_FILES)


def nodes(
    path: Path, origin: str, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, File]]:
    """Each wanted file of a wheel with its path below site-packages, in the archive's order."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if (name := _destination(info.filename)) and not info.is_dir() and wanted(name):
                    # The upper half of the attributes is the mode, where the archive was made on Unix.
                    yield name, File(archive.read(info), bool(info.external_attr >> 16 & 0o100), origin)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise FormatError(
            f"The wheel {origin} ({path}) is damaged: {error}. Delete it and build again."
        ) from error


def _destination(name: str) -> str | None:
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"it has a member called {name!r}")
    top, _, rest = name.partition("/")
    if top.endswith(".data"):
        scheme, _, rest = rest.partition("/")
        return rest if scheme in {"purelib", "platlib"} else None
    if top.endswith(".dist-info") and name.endswith(DROPPED):
        return None
    return name

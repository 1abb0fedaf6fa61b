"""Reads npm packages: gzipped tar archives whose one top folder, mostly ``package``, holds the files."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from graftbox.bundle.content import File
from graftbox.errors import FormatError


def nodes(
    path: Path, origin: str, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, File]]:
    """Each wanted file with its path below the top folder, in the archive's order.

    Links do not occur: npm drops them when it packs.
    """
    try:
        with tarfile.open(path, mode="r|gz") as archive:
            for member in archive:
                if ".." in member.name.split("/"):
                    raise ValueError(f"it has a member called {member.name!r}")
                # Some packages hold one file as package/lib/a.js and as package/./lib/a.js.
                name = posixpath.normpath(member.name).strip("/").partition("/")[2]
                if not member.isreg() or not name or not wanted(name):
                    continue
                stream = archive.extractfile(member)
                assert stream is not None
                yield name, File(stream.read(), bool(member.mode & 0o100), origin)
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise FormatError(
            f"The npm package {origin} ({path}) is damaged: {error}. Delete it and build again."
        ) from error

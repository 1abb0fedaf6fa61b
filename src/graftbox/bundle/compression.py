"""The forms of a layer: what each is called, what its bytes depend on, and how it is read.

``gzip`` is understood by every registry and engine. ``zstd`` is smaller and unpacks faster, but Docker knows
it from version 23 only. ``estargz`` is gzip that lazy-pulling snapshotters read file by file.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from graftbox.errors import UnsupportedError

GZIP = "gzip"
ZSTD = "zstd"
ESTARGZ = "estargz"
FORMS = (GZIP, ZSTD, ESTARGZ)


def zstd() -> Any:
    """Python's zstd module: its own since 3.14, else that of the package ``backports.zstd``."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise UnsupportedError(
        "zstd layers need Python 3.14 or the package backports.zstd. Install it (pip install "
        "'graftbox[zstd]'), or choose --compression gzip."
    )


@contextlib.contextmanager
def opened(blob: Path, form: str) -> Iterator[IO[bytes]]:
    """The layer's tar. A damaged blob is an `EOFError`, `zlib.error` or `gzip.BadGzipFile`."""
    if form != ZSTD:
        with gzip.open(blob) as stream:
            yield stream  # type: ignore[misc]  # GzipFile is not an IO in typeshed, but has all of it
        return
    library = zstd()
    try:
        with library.open(blob) as stream:
            yield stream
    except library.ZstdError as error:
        raise EOFError(str(error)) from error

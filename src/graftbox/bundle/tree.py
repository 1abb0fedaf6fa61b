"""The unpacked bundle: a folder whose child ``openhands`` is what a sandbox sees as ``/openhands``."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

from graftbox.bundle.compression import ESTARGZ, opened
from graftbox.bundle.estargz import LANDMARK, TOC
from graftbox.bundle.manifest import BundleManifest
from graftbox.errors import FormatError, NotFoundError
from graftbox.store import Store, storage_errors


def unpacked(manifest: BundleManifest, store: Store) -> Path:
    """The cached folder with the layers of ``manifest`` unpacked; made whole on first use."""
    folder = store.folder("trees") / manifest.digest.partition(":")[2]
    if folder.is_dir():
        return folder
    with store.lock("tree"):
        if not folder.is_dir():
            with store.temporary_folder() as temporary, storage_errors(store.root):
                for layer in manifest.layers:
                    _unpack(store.blob_path(layer.digest), temporary, layer.compression)
                temporary.chmod(0o755)
                temporary.rename(folder)
    return folder


def _unpack(blob: Path, folder: Path, form: str) -> None:
    """Unpacks one layer that we made ourselves; links may be absolute and are kept as they are."""
    try:
        with opened(blob, form) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            # As an attribute, because the argument `filter` is missing in Python 3.11.2, Debian 12's.
            archive.extraction_filter = (
                tarfile.fully_trusted_filter if hasattr(tarfile, "data_filter") else None
            )
            for member in archive:
                if form == ESTARGZ and member.name in (LANDMARK, TOC):
                    continue
                archive.extract(member, folder, set_attrs=True, numeric_owner=True)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"The layer {blob.name} is no longer in the store. Run `graftbox bundle build`."
        ) from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError(
            f"The layer {blob} is damaged: {error}. Delete it and run `graftbox bundle build`."
        ) from error

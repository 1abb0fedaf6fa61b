"""The unpacked bundle: a folder whose child ``openhands`` is what a sandbox sees as ``/openhands``.

Each layer is unpacked once, in ``trees/layers/<hex>``; the tree of a bundle, ``trees/<hex>``, is made of hard
links to them. So a bundle that differs from another in the server's code costs its folders and that code.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path

from graftbox.bundle.compression import ESTARGZ, opened
from graftbox.bundle.estargz import LANDMARK, TOC
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.errors import FormatError, NotFoundError
from graftbox.store import Store, storage_errors

LOCK = "tree"
"""Held while trees are made."""


def unpacked(manifest: BundleManifest, store: Store) -> Path:
    """The cached folder with the layers of ``manifest`` unpacked; made whole on first use."""
    folder = store.folder("trees") / manifest.digest.partition(":")[2]
    if store.used(folder):
        return folder
    with store.lock(LOCK):
        if not folder.is_dir():
            layers = [_layer(layer, store) for layer in manifest.layers]
            with store.temporary_folder() as temporary, storage_errors(store.root):
                for layer in layers:
                    _link(layer, temporary)
                temporary.chmod(0o755)
                temporary.rename(folder)
    return folder


def _layer(layer: Layer, store: Store) -> Path:
    """The folder with one layer's files."""
    folder = store.folder("trees", "layers") / layer.digest.partition(":")[2]
    if not store.used(folder):
        with store.temporary_folder() as temporary, storage_errors(store.root):
            _unpack(store.blob_path(layer.digest), temporary, layer.compression)
            temporary.rename(folder)
    return folder


def _link(source: Path, target: Path) -> None:
    """Adds the files of ``source`` to ``target``, which may have some of its folders."""
    for entry in os.scandir(source):
        path = target / entry.name
        if not entry.is_dir(follow_symlinks=False):
            os.link(entry.path, path, follow_symlinks=False)
            continue
        path.mkdir(exist_ok=True)
        _link(Path(entry.path), path)
        shutil.copymode(entry.path, path)


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

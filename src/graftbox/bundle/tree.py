"""The unpacked bundle: a folder whose child ``openhands`` is what a sandbox sees as ``/openhands``.

Each layer is unpacked once, in ``trees/layers/<hex>``; the tree of a bundle, ``trees/<hex>``, is made of hard
links to them. So a bundle that differs from another in the server's code costs its folders and that code.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.unpacking import unpack
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
            layers = _layers(manifest.layers, store)
            with store.temporary_folder() as temporary, storage_errors(store.root):
                for layer in layers:
                    _link(layer, temporary)
                temporary.chmod(0o755)
                temporary.rename(folder)
    return folder


def _layers(layers: Sequence[Layer], store: Store) -> list[Path]:
    """The folders with each layer's files. The first failure, or Ctrl-C, ends the others' work."""
    largest = sorted(layers, key=lambda layer: -layer.size)
    stop = threading.Event()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            futures = {layer: pool.submit(_layer, layer, store, stop) for layer in largest}
            for future in as_completed(futures.values()):
                future.result()
            return [futures[layer].result() for layer in layers]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _layer(layer: Layer, store: Store, stop: threading.Event) -> Path:
    """The folder with one layer's files."""
    folder = store.folder("trees", "layers") / layer.digest.partition(":")[2]
    if not store.used(folder):
        with store.temporary_folder() as temporary, storage_errors(store.root):
            unpack(store.blob_path(layer.digest), temporary, layer.compression, stop)
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

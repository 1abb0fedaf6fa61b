"""Flavours: how the server comes in a bundle, as a tree of Python files or as one PyInstaller folder.

The frozen flavour is made of the tree's layers: what is Python's is taken out of each, and all of that, the
server included, becomes one last layer, ``binary``. A layer without Python is the same one in both flavours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from graftbox.bundle import pyinstaller
from graftbox.bundle.build import BINARY, SERVER, Job
from graftbox.bundle.content import Content, File
from graftbox.bundle.lock import Entry, Lock
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.native import architecture
from graftbox.bundle.recipe import Recipe
from graftbox.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from graftbox.bundle.progress import Progress
    from graftbox.bundle.sources import Sources

TREE, PYINSTALLER = "tree", "pyinstaller"
FLAVORS = (TREE, PYINSTALLER)
PYTHON = ("lib/python3.13", "libexec/python3.13", "bin/action-execution-server", "code")
"""What is Python's in a tree: these files, and what is below these folders."""
FREEZER_CODE = (
    *(Path(__file__).with_name(name) for name in ("flavor.py", "pyinstaller.py", "pyinstaller_program.py")),
    pyinstaller.SPEC,
    pyinstaller.HOOK,
)


def job_class(flavor: str) -> type[Job]:
    """What builds bundles of that flavour."""
    if flavor not in FLAVORS:
        raise UsageError(f"There is no flavour {flavor!r}; choose one of {', '.join(FLAVORS)}.")
    return Job if flavor == TREE else FrozenJob


def is_pythons(path: str) -> bool:
    return path in PYTHON or path.startswith(tuple(f"{folder}/" for folder in PYTHON))


@dataclass(frozen=True)
class FrozenJob(Job):
    """A bundle of the pyinstaller flavour. ``lock`` has PyInstaller's own packages too."""

    flavor: ClassVar[str] = PYINSTALLER

    @classmethod
    def of(cls, *arguments: object, **named: object) -> Job:
        """As `Job.of`; `UnsupportedError` for another architecture than this machine's."""
        made = super().of(*arguments, **named)  # type: ignore[arg-type]  # what Job.of takes
        if made.arch != architecture():
            raise UnsupportedError(
                f"PyInstaller makes programs only for the machine that it runs on: build the {made.arch} "
                f"bundle of the flavour pyinstaller on an {made.arch} machine, or choose the flavour tree, "
                "which is built anywhere for any architecture."
            )
        return replace(made, lock=_with_tools(made.lock, made.arch))

    @cached_property
    def tree(self) -> Job:
        """The same bundle in the other flavour."""
        return Job(self.recipe, self.lock, self.arch, self.components, self.store, self.compression)

    @cached_property
    def layer_names(self) -> list[str]:
        return [*(name for name in self.tree.layer_names if name != SERVER), BINARY]

    def key(self, layer: str) -> str:
        inputs = self._binary_inputs if layer == BINARY else [self.tree.key(layer)]
        return hashlib.sha256(" ".join((PYINSTALLER, *inputs)).encode()).hexdigest()

    @cached_property
    def _binary_inputs(self) -> list[str]:
        code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in FREEZER_CODE]
        tools = [entry.sha256 for entry in self.lock.entries(self.arch, [PYINSTALLER])]
        return [*map(self.tree.key, self.tree.layer_names), *code, *tools]

    def layer(self, name: str, progress: Progress, sources: Sources | None) -> Layer:
        if name != BINARY:
            made = self.tree.layer(name, progress, sources)
            if not any(map(is_pythons, self._read(made))):
                return made
        return super().layer(name, progress, sources)

    def content(self, name: str, progress: Progress, sources: Sources | None) -> Content:
        if name != BINARY:
            content = self._read(self.tree.layer(name, progress, sources))
            return {path: node for path, node in content.items() if not is_pythons(path)}
        whole = self._whole(progress, sources)
        entries = self.lock.entries(self.arch, [PYINSTALLER])
        paths = self._fetched(entries, progress, sources)
        progress.start("freezing the server", 1)
        content = pyinstaller.frozen(whole, paths, self.arch, self.store)
        progress.done()
        return content

    def adopt(self, folder: Path, progress: Progress, sources: Sources | None) -> None:
        """Takes a folder that PyInstaller has made elsewhere for the one that would be made here."""
        with self.store.lock(f"bundle-{self.arch}"):
            self.pack(BINARY, pyinstaller.moved(folder, self._whole(progress, sources), self.arch), progress)

    def _whole(self, progress: Progress, sources: Sources | None) -> Content:
        whole: Content = {}
        for name in self.tree.layer_names:
            whole |= self._read(self.tree.layer(name, progress, sources))
        return whole

    def _read(self, layer: Layer) -> Content:
        """The content of a layer of the tree, with the packages that its files are from."""
        from graftbox.bundle import inventory, verify

        manifest = BundleManifest(self.arch, TREE, self.lock.digest, self.components, (layer,))
        origins = {row.path: row.package for row in inventory.rows(manifest, self.store)}
        return {
            path: replace(node, origin=origins.get(path, "")) if isinstance(node, File) else node
            for path, node in verify.read(layer, self.store).items()
        }

    def save(self, layers: Iterable[Layer], progress: Progress | None = None) -> BundleManifest:
        return super().save((layer for layer in layers if layer.files), progress)


def _with_tools(lock: Lock, arch: str) -> Lock:
    """The lock and what freezes, which must be of the same version of CPython."""
    recipe = Recipe.builtin(PYINSTALLER)
    tools = Lock.of(recipe).architecture(arch)
    ours = lock.architecture(arch)
    versions = {package.name: package.version for package in ours.packages}
    for package in tools.packages:
        if package.version != versions.get("python3.13", package.version):
            raise UsageError(
                f"{package.name} {package.version} does not go with the bundle's python3.13 "
                f"{versions['python3.13']}. Run `{recipe.lock_command}`."
            )
    merged = replace(
        ours,
        packages=tuple(sorted((*ours.packages, *tools.packages), key=_order)),
        wheels=tuple(sorted((*ours.wheels, *tools.wheels), key=_order)),
    )
    return replace(lock, architectures={**lock.architectures, arch: merged})


def _order(entry: Entry) -> tuple[str, str]:
    return entry.name, entry.version

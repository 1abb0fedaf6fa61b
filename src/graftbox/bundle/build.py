"""Builds a bundle: fetch -> stage -> relocate -> compile -> pack, each layer cached by its inputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import deflate

from graftbox.bundle import compression as forms
from graftbox.bundle import manifest as manifests
from graftbox.bundle import own_code
from graftbox.bundle.bytecode import PACKAGES, Compiler
from graftbox.bundle.lock import Entry, Lock, LockedArchive, LockedModule, LockedPackage, LockedWheel
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.bundle.native import architecture
from graftbox.bundle.progress import Progress, Silent
from graftbox.bundle.recipe import Recipe
from graftbox.errors import FormatError
from graftbox.store import Store, storage_errors

if TYPE_CHECKING:
    from graftbox.bundle.content import Content
    from graftbox.bundle.sources import Sources

SERVER = "server"
BINARY = "binary"
"""The last layer in the flavour pyinstaller: all of Python."""


def build(
    recipe: Recipe | None = None,
    arch: str | None = None,
    components: Sequence[str] | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
    *,
    lock: Lock | None = None,
    sources: Sources | None = None,
    compression: str = forms.GZIP,
    flavor: str = "tree",
    merged: bool = False,
) -> BundleManifest:
    """The bundle of these components, built as far as it is not in the store yet.

    Which ones names stand for is said by `Recipe.chosen`; none: all that are not optional.

    ``recipe`` and ``lock`` default to the built-in ones, ``arch`` to this machine's; ``compression`` is one
    of `compression.FORMS`, ``flavor`` one of `flavor.FLAVORS`; ``merged`` makes all layers but the last one.
    Safe to run many times at once and to interrupt: a layer is in the store whole or not at all.
    """
    job = job_class(flavor).of(recipe, arch, components, store, lock, compression, merged)
    if found := job.found():
        return found
    progress = progress or Silent()
    with job.store.lock(f"bundle-{job.arch}"):
        job.store.sweep()
        layers = [job.layer(name, progress, sources) for name in job.layer_names]
        return job.save(layers, progress)


def current(
    arch: str | None = None,
    components: Sequence[str] | None = None,
    store: Store | None = None,
    recipe: Recipe | None = None,
    lock: Lock | None = None,
    compression: str = forms.GZIP,
    flavor: str = "tree",
    merged: bool = False,
) -> BundleManifest | None:
    """The bundle that `build` would return, if nothing is left to build."""
    return job_class(flavor).of(recipe, arch, components, store, lock, compression, merged).found()


def job_class(flavor: str) -> type[Job]:
    """What builds bundles of that flavour."""
    if flavor == Job.flavor:
        return Job
    from graftbox.bundle import flavor as flavors

    return flavors.job_class(flavor)


@dataclass(frozen=True)
class Job:
    """What is to be built. Each layer's ``key`` is a digest of everything that decides its bytes.

    Which layer a file is in does not depend on which components are chosen: what the base component has is
    in its layer only; wheels and packages that several others have and the base has not are in a layer of
    their own, ``jupyter+mcp``, that comes with each of them and lies on the layers of these and further ones;
    everything else is in its component's layer. ``merged`` joins all but the last one when they are made.
    """

    recipe: Recipe
    lock: Lock
    arch: str
    components: tuple[str, ...]
    store: Store
    compression: str = forms.GZIP
    merged: bool = False
    flavor: ClassVar[str] = "tree"

    @classmethod
    def of(
        cls,
        recipe: Recipe | None = None,
        arch: str | None = None,
        components: Sequence[str] | None = None,
        store: Store | None = None,
        lock: Lock | None = None,
        compression: str = forms.GZIP,
        merged: bool = False,
    ) -> Job:
        recipe = recipe or Recipe.builtin()
        lock = lock or Lock.of(recipe)
        chosen = recipe.chosen(components)
        arch = arch or architecture()
        lock.architecture(arch)
        return cls(recipe, lock, arch, chosen, store or Store(), compression, merged)

    @cached_property
    def layer_names(self) -> list[str]:
        """The base, what others share, one per further component, and the server's code last."""
        base, *others = self.components
        return [base, *self._shared(others), *others, SERVER]

    def _owner(self, entry: Entry) -> str:
        """The layer that a locked entry is in."""
        if self.recipe.base in entry.components:
            return self.recipe.base
        return "+".join(name for name in self.recipe.components if name in entry.components)

    def _shared(self, components: Sequence[str]) -> list[str]:
        """The layers of what several components, among them one of these, have and the base has not."""
        names = {self._owner(entry) for entry in self.lock.entries(self.arch)}
        tables = {name: self.recipe.component(name).stage or {} for name in self.recipe.components}
        for library in {library for table in tables.values() for library in table.get("libraries", ())}:
            having = [name for name, table in tables.items() if library in table.get("libraries", ())]
            names.add("+".join(having if self.recipe.base not in having else []))
        chosen = [name for name in names if "+" in name and set(name.split("+")) & set(components)]
        return sorted(chosen, key=lambda name: (-name.count("+"), name))

    def _below(self, layer: str) -> list[str]:
        """The layers that this one lies on, lowest first."""
        if layer in {self.recipe.base, SERVER}:
            return []
        members = set(layer.split("+"))
        return [
            self.recipe.base,
            *(name for name in self._shared([*members]) if members < set(name.split("+"))),
        ]

    @cached_property
    def _builder(self) -> str:
        return own_code.digest(own_code.BUILDER)

    @cached_property
    def _compiler_entries(self) -> list[LockedPackage]:
        packages = self.lock.architecture(architecture()).packages
        return [package for package in packages if package.name in PACKAGES]

    def entries(self, layer: str) -> list[Entry]:
        """What the layer is made of: its own wheels, and all packages that may have libraries for them."""
        members = set(layer.split("+"))
        return [
            entry
            for entry in self.lock.entries(self.arch)
            if members <= set(entry.components)
            and (isinstance(entry, LockedPackage) or self._owner(entry) == layer)
        ]

    def key(self, layer: str) -> str:
        """Bare hex digest of a layer's inputs."""
        facts: dict[str, Any] = {
            "builder": self._builder,
            "deflate": deflate.__version__,
            # Not which architecture compiles: bytecode does not depend on it.
            "python": sorted(f"{entry.name} {entry.version}" for entry in self._compiler_entries),
        }
        if self.compression != forms.GZIP:  # whose keys stay as they are
            facts["compression"] = self.compression
        if self.compression == forms.ZSTD:
            facts["zstd"] = forms.zstd().zstd_version
        if layer == SERVER:
            facts["server"] = own_code.digest(own_code.SERVER)
        else:
            facts["arch"] = self.arch
            facts["packages"] = [entry.sha256 for entry in self.entries(layer)]
            facts["stage"] = [self.recipe.component(name).stage for name in layer.split("+")]
            facts["below"] = [self.key(name) for name in self._below(layer)]
            if strips := self._strips(layer):
                facts["strips"] = strips
            if any((stage or {}).get("native") for stage in facts["stage"]):
                from graftbox.bundle import zig

                facts["zig"] = zig.locked().version
        return _hex(json.dumps(facts, sort_keys=True).encode())

    @property
    def path(self) -> Path:
        """Where the manifest of exactly this bundle is or would be."""
        keys = " ".join(f"{name}={self.key(name)}" for name in self.layer_names)
        if self.merged:
            keys += f" merged={own_code.digest(own_code.MERGER)}"
        return self.store.root / "bundles" / self.arch / f"{_hex((self.lock.digest + keys).encode())}.json"

    def recorded(self) -> BundleManifest | None:
        """The manifest that was saved for exactly this bundle; its layers may be gone since."""
        path = self.path
        if not path.is_file():
            return None
        try:
            return manifests.parse(path.read_bytes(), str(path))
        except FormatError:
            return None  # made again, like everything in a cache

    def found(self) -> BundleManifest | None:
        """The manifest, if it and all its layers are in the store."""
        found = self.recorded()
        return found if found and all(map(self._is_here, found.layers)) else None

    def save(self, layers: Iterable[Layer], progress: Progress | None = None) -> BundleManifest:
        layers = list(layers)
        if self.merged:
            layers = self._merged(layers, progress or Silent())
        made = BundleManifest(self.arch, self.flavor, self.lock.digest, self.components, tuple(layers))
        _write(self.store, self.path, made.to_json())
        return made

    def _is_here(self, layer: Layer) -> bool:
        return self.store.has(layer.digest, layer.compressed_size)

    def layer(self, name: str, progress: Progress, sources: Sources | None) -> Layer:
        """The layer, from the store if its inputs are the same as they were."""
        known = self._known(self._record(name))
        return known or self.pack(name, self.content(name, progress, sources), progress)

    def pack(self, name: str, content: Content, progress: Progress) -> Layer:
        """The layer with this content, which it has from now on."""
        from graftbox.bundle import inventory, layers

        component = self.recipe.base if name in {SERVER, BINARY} else name
        progress.start(f"packing {name}", 1)
        made = layers.write(name, component, content, self.store, self.compression)
        inventory.record(made, content, self.store)
        progress.done()
        _write(self.store, self._record(name), json.dumps(made.facts, sort_keys=True).encode())
        return made

    def _merged(self, layers: list[Layer], progress: Progress) -> list[Layer]:
        """All layers but the last as one, from the store if just these were merged before, and the last."""
        *parts, last = layers
        if len(parts) < 2:
            return layers
        from graftbox.bundle import inventory, merging

        facts = [own_code.digest(own_code.MERGER), *(part.digest for part in parts)]
        record = self.store.root / "layers" / f"{_hex(' '.join(facts).encode())}.json"
        made = self._known(record)
        if made is None:
            progress.start(f"merging {len(parts)} layers", 1)
            made = merging.merged(parts, "+".join(self.components), self.store)
            inventory.join(made, parts, self.store)
            progress.done()
            _write(self.store, record, json.dumps(made.facts, sort_keys=True).encode())
        return [made, last]

    def _record(self, layer: str) -> Path:
        return self.store.root / "layers" / f"{self.key(layer)}.json"

    def _known(self, record: Path) -> Layer | None:
        """The layer of a record, if it is in the store; a damaged record is none."""
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            known = Layer(**json.loads(record.read_bytes()))
            if self._is_here(known):
                return known
        return None

    def content(self, name: str, progress: Progress, sources: Sources | None) -> Content:
        """Everything that one layer holds."""
        from graftbox.bundle import bytecode, licences, pak, relocation, strip

        layers = [] if name == SERVER else [*self._below(name), name]
        entries = {entry for layer in layers for entry in self.entries(layer)}
        paths = self._fetched([*entries, *self._compiler_entries], progress, sources)
        compiler = Compiler.unpack(self.store, {entry: paths[entry] for entry in self._compiler_entries})
        progress.start(f"staging {name}", 1)
        content = _server_content() if name == SERVER else {}
        below: Content = {}
        for layer in layers:
            below.update(content)
            content = self._staged(layer, paths, below, progress, sources)
        relocation.relocate(content, self.arch)
        strip.strip(content)
        pak.trim(content)
        licences.tidy(content, name, entries)
        progress.done()
        progress.start(f"compiling {name}", 1)
        bytecode.add_bytecode(content, compiler, self.store)
        progress.done()
        return content

    def _staged(
        self,
        layer: str,
        paths: Mapping[Entry, Path],
        below: Content,
        progress: Progress,
        sources: Sources | None,
    ) -> Content:
        """The layer's content before it is relocated."""
        from graftbox.bundle import native_modules, plan, stage

        plans = [plan.parse(self.recipe.component(name).stage or {}, self.arch) for name in layer.split("+")]
        chosen = plan.shared(plans) if len(plans) > 1 else plans[0]
        entries = self.entries(layer)
        packages = {_origin(e): paths[e] for e in entries if isinstance(e, LockedPackage)}
        wheels = {_origin(e): paths[e] for e in entries if isinstance(e, LockedWheel)}
        modules = {_origin(e): (paths[e], e.places) for e in entries if isinstance(e, LockedModule)}
        compiled = {}
        if chosen.native:
            compiled = native_modules.compiled(chosen.native, paths, self.arch, self.store, sources, progress)
        strips = self._strips(layer)
        archives = {_origin(e): (paths[e], strips[e.name]) for e in entries if isinstance(e, LockedArchive)}
        return stage.stage(chosen, packages, wheels, self.arch, below, modules, compiled, archives)

    def _strips(self, layer: str) -> dict[str, int]:
        """How many folders are dropped from the names of each archive's files."""
        parts = [self.recipe.component(name) for name in layer.split("+")]
        return {archive.name: archive.strip for part in parts for archive in part.archives}

    def _fetched(
        self, entries: Sequence[Entry], progress: Progress, sources: Sources | None
    ) -> dict[Entry, Path]:
        from graftbox.bundle.fetch import fetch
        from graftbox.bundle.sources import Sources

        return fetch(entries, self.store, sources or Sources.find(), progress, recipe=self.recipe)


def _origin(entry: Entry) -> str:
    return f"{entry.name} {entry.version}"


def _server_content() -> Content:
    from graftbox.bundle.content import File

    return {
        f"code/graftbox/{path.relative_to(own_code.PACKAGE).as_posix()}": File(
            path.read_bytes(), origin="graftbox"
        )
        for path in own_code.files(own_code.SERVER)
    }


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(store: Store, path: Path, data: bytes) -> None:
    """Writes a small file whole or not at all."""
    store.folder(*path.parent.relative_to(store.root).parts)
    with store.temporary_file() as (stream, temporary):
        stream.write(data)
        stream.close()
        with storage_errors(path):
            temporary.chmod(0o644)
            temporary.replace(path)

"""Makes locks: a whole one from a recipe, or a new one that replaces only what its sources have lost."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle import archive, fetch, npm, requirements, resolve, suites
from graftbox.bundle.debian import BinaryPackage, Catalog, Group, Relation, version_key
from graftbox.bundle.download import Downloader, shown
from graftbox.bundle.lock import (
    ARCHITECTURES,
    Entry,
    Lock,
    LockedArchitecture,
    LockedArchive,
    LockedModule,
    LockedPackage,
    LockedWheel,
)
from graftbox.bundle.progress import Progress, Silent
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sources import Sources
from graftbox.errors import NotFoundError, VerificationError
from graftbox.store import Store


@dataclass(frozen=True)
class Workshop:
    """Everything outside of the recipe that locking uses."""

    store: Store
    sources: Sources
    progress: Progress = dataclasses.field(default_factory=Silent)
    keyring: Path | None = None
    allow_expired: bool = False
    architectures: tuple[str, ...] = ARCHITECTURES


def make(recipe: Recipe, workshop: Workshop) -> Lock:
    """A lock of the newest versions of everything that the recipe asks for."""
    return _make(recipe, workshop, None)


def update_missing(recipe: Recipe, lock: Lock, workshop: Workshop) -> Lock:
    """The same lock, but for what no source has any more and whatever its successors force to change."""
    return _make(recipe, workshop, lock)


def _make(recipe: Recipe, workshop: Workshop, old: Lock | None) -> Lock:
    with Downloader(workshop.sources.authorities()) as downloader:
        opened = suites.open_suites(
            recipe, workshop.sources, downloader, workshop.keyring, workshop.allow_expired
        )
        registry = npm.Resolver(workshop.store, workshop.sources, downloader, _known(old))
        architectures = {
            arch: _architecture(arch, recipe, opened, workshop, registry, old)
            for arch in workshop.architectures
        }
    return Lock(
        recipe=recipe.resolution_digest,
        suites={suite.name: suite.release.timestamp for suite in opened},
        architectures=architectures,
    )


def _known(old: Lock | None) -> dict[str, tuple[int, str]]:
    """Size and sha256 of what was locked before, by integrity."""
    locked = old.architectures.values() if old else ()
    return {module.integrity: (module.size, module.sha256) for one in locked for module in one.modules}


def _architecture(
    arch: str,
    recipe: Recipe,
    opened: Sequence[suites.Suite],
    workshop: Workshop,
    registry: npm.Resolver,
    old: Lock | None,
) -> LockedArchitecture:
    """One architecture's part; wheels and npm packages are solved anew only if one is gone or the recipe has
    changed."""
    downloader = registry.downloader
    catalog = suites.catalog(
        opened, recipe.sections, arch, workshop.store, workshop.sources, workshop.progress
    )
    before = old.architectures.get(arch) if old else None
    if old is None or before is None:
        packages = _packages(recipe, catalog, {})
        wheels = _wheels(recipe, arch, packages, (), workshop, downloader)
        modules = _modules(recipe, arch, (), registry)
        return LockedArchitecture(packages, wheels, modules, _archives(recipe, arch, workshop, downloader))
    kept = _kept(before, workshop, downloader)
    packages = _packages(recipe, catalog, kept.packages)
    wheels, modules = before.wheels, before.modules
    changed = old.recipe != recipe.resolution_digest
    if changed or len(kept.wheels) < len(wheels):
        wheels = _wheels(recipe, arch, packages, kept.wheels, workshop, downloader)
    if changed or len(kept.modules) < len(modules):
        modules = _modules(recipe, arch, kept.modules, registry)
    return LockedArchitecture(packages, wheels, modules, _archives(recipe, arch, workshop, downloader))


@dataclass(frozen=True)
class _Kept:
    """What of an old lock is still to be had."""

    packages: Mapping[str, LockedPackage]
    wheels: Sequence[LockedWheel]
    modules: Sequence[LockedModule]


def _kept(before: LockedArchitecture, workshop: Workshop, downloader: Downloader) -> _Kept:
    """Asks the sources for each file's head; packages of one source stay or go together."""

    def there(entry: Entry) -> bool:
        try:
            return any(map(downloader.exists, fetch.addresses(entry, workshop.sources, downloader)))
        except NotFoundError:
            return False

    # Archives are where the recipe says, or nowhere.
    entries: list[Entry] = [*before.packages, *before.wheels, *before.modules]
    with concurrent.futures.ThreadPoolExecutor(fetch.WORKERS) as pool:
        present = dict(zip(entries, pool.map(there, entries), strict=True))
    lost = {package.source for package in before.packages if not present[package]}
    return _Kept(
        packages={p.name: p for p in before.packages if p.source not in lost},
        wheels=[wheel for wheel in before.wheels if present[wheel]],
        modules=[module for module in before.modules if present[module]],
    )


def _packages(
    recipe: Recipe, catalog: Catalog, kept: Mapping[str, LockedPackage]
) -> tuple[LockedPackage, ...]:
    """The closure of every component; the same version of a package serves them all."""
    pins = {name: _pin(package, catalog) for name, package in kept.items()}
    members: dict[str, list[str]] = {}
    chosen: dict[str, BinaryPackage] = {}
    for component in recipe.components.values():
        found = resolve.closure(component.packages, component.without, catalog, pins)
        for name, package in found.items():
            members.setdefault(name, []).append(component.name)
            if name not in chosen or version_key(package.version) > version_key(chosen[name].version):
                chosen[name] = package
    return tuple(_locked(chosen[name], tuple(sorted(members[name]))) for name in sorted(chosen))


def _pin(locked: LockedPackage, catalog: Catalog) -> BinaryPackage:
    """A kept package with its dependencies.

    A superseded version is in no Packages file any more: it is taken to need what its successor
    needs, in any version, for within a stable suite these sets do not change.
    """
    versions = catalog.versions(locked.name)
    exact = next((p for p in versions if p.sha256 == locked.sha256), None)
    if exact:
        return dataclasses.replace(exact, date=locked.date)
    best = catalog.best(locked.name)
    return BinaryPackage(
        name=locked.name,
        version=locked.version,
        depends=_unversioned(best) if best else (),
        provides=best.provides if best else (),
        archive=locked.archive,
        path=locked.path,
        size=locked.size,
        sha256=locked.sha256,
        source=locked.source,
        date=locked.date,
    )


def _unversioned(package: BinaryPackage) -> tuple[Group, ...]:
    return tuple(tuple(Relation(r.name) for r in group) for group in package.depends)


def _locked(package: BinaryPackage, components: tuple[str, ...]) -> LockedPackage:
    return LockedPackage(
        name=package.name,
        version=package.version,
        archive=package.archive,
        path=package.path,
        size=package.size,
        sha256=package.sha256,
        source=package.source,
        date=package.date,
        components=components,
    )


def _wheels(
    recipe: Recipe,
    arch: str,
    packages: Sequence[LockedPackage],
    kept: Sequence[LockedWheel],
    workshop: Workshop,
    downloader: Downloader,
) -> tuple[LockedWheel, ...]:
    """Wheels for the Python that is locked; the projects of ``kept`` stay at their versions."""
    wanted = {
        name: requirements.Wanted(part.wheels, part.without_wheels)
        for name, part in recipe.components.items()
        if part.wheels
    }
    if recipe.python is None or not wanted:
        return ()
    interpreter = next((p for p in packages if p.name == f"python{recipe.python}-minimal"), None)
    version = interpreter.version.partition("-")[0] if interpreter else f"{recipe.python}.0"
    guest = requirements.Guest(version, arch)
    keep = {wheel.name: wheel.version for wheel in kept}
    return requirements.resolve(wanted, guest, workshop.sources.indexes(), downloader, keep)


def _modules(
    recipe: Recipe, arch: str, kept: Sequence[LockedModule], registry: npm.Resolver
) -> tuple[LockedModule, ...]:
    """npm packages; those of ``kept`` that the recipe names stay, if all that they need is still there."""
    wanted = {name: part.npm for name, part in recipe.components.items() if part.npm}
    keep = {module.name: module.version for module in kept if module.name in module.places}
    try:
        return registry.resolve(wanted, arch, keep)
    except NotFoundError:
        if not keep:
            raise
        return registry.resolve(wanted, arch)


def _archives(
    recipe: Recipe, arch: str, workshop: Workshop, downloader: Downloader
) -> tuple[LockedArchive, ...]:
    """The archives that the recipe names for this architecture; each is in the store afterwards."""
    members: dict[tuple[str, str, str], set[str]] = {}
    for name, part in recipe.components.items():
        for one in part.archives:
            if origin := one.origin(arch):
                members.setdefault((one.name, one.version, origin.sha256), set()).add(name)
    addresses = recipe.archive_addresses
    return tuple(
        LockedArchive(
            name,
            version,
            _size(addresses[sha256], sha256, workshop.store, downloader),
            sha256,
            tuple(sorted(components)),
        )
        for (name, version, sha256), components in sorted(members.items())
    )


def _size(address: str, sha256: str, store: Store, downloader: Downloader) -> int:
    """How large an archive is; one that is not in the store yet is fetched."""
    path = store.blob_path(f"sha256:{sha256}")
    if path.is_file():
        return path.stat().st_size
    data = downloader.read(address, limit=archive.LARGEST).data
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise VerificationError(
            f"{shown(address)} is not what the recipe promises: its sha256 is {found}, not {sha256}. Nothing "
            "was kept; correct the recipe if you trust the file."
        )
    store.put(data)
    return len(data)


@dataclass(frozen=True)
class Change:
    """One difference between two locks; ``before`` or ``after`` is empty for what is new or gone."""

    arch: str
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.arch} {self.name}: {self.before or 'not there'} -> {self.after or 'not there'}"


def changes(old: Lock | None, new: Lock) -> list[Change]:
    """What differs, by architecture and name."""
    found = []
    for arch in sorted({*new.architectures, *(old.architectures if old else ())}):
        before, after = _versions(old, arch), _versions(new, arch)
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                old_version, new_version = before.get(name, ("", ""))[0], after.get(name, ("", ""))[0]
                found.append(Change(arch, name, old_version, new_version))
    return found


def _versions(lock: Lock | None, arch: str) -> dict[str, tuple[str, str]]:
    if lock is None or arch not in lock.architectures:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for entry in lock.entries(arch):  # of npm packages there may be several versions
        version, sha256 = found.get(entry.name, ("", ""))
        found[entry.name] = (f"{version} {entry.version}".strip(), f"{sha256} {entry.sha256}".strip())
    return found

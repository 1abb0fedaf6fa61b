"""The dependency closure of packages: pure, over a catalog; no solver, because one suite is consistent.

Of each package there is one version: the pinned one, else the highest. A dependency is satisfied by the
first of its alternatives that is already chosen, else the first that exists. Conflicts, Recommends and
Suggests are not looked at: nothing is installed, files are only taken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from graftbox.bundle.debian import BinaryPackage, Catalog, Group, Relation
from graftbox.errors import NotFoundError, UsageError


@dataclass
class Choice:
    """Which version of each package counts. ``pins`` shrinks when a pinned version satisfies nobody."""

    catalog: Catalog
    pins: dict[str, BinaryPackage] = field(default_factory=dict)

    def package(self, name: str) -> BinaryPackage | None:
        return self.pins.get(name) or self.catalog.best(name)

    def satisfying(self, relation: Relation) -> Iterator[BinaryPackage]:
        """Packages that satisfy one alternative: the real one, then those that provide it."""
        package = self.package(relation.name)
        if package and relation.allows(package.version):
            yield package
        for name in self.catalog.providers(relation.name):
            provider = self.package(name)
            if provider and name != relation.name and _provides(provider, relation):
                yield provider

    def unpin_for(self, package: BinaryPackage, group: Group) -> bool:
        """Drops the pin that keeps this group of ``package`` from being satisfied; whether there was one."""
        for relation in group:
            best = self.catalog.best(relation.name)
            if relation.name in self.pins and best and relation.allows(best.version):
                del self.pins[relation.name]
                return True
        return self.pins.get(package.name) is package and bool(self.pins.pop(package.name))


def closure(
    roots: Iterable[str],
    without: Collection[str],
    catalog: Catalog,
    pins: Mapping[str, BinaryPackage] | None = None,
) -> dict[str, BinaryPackage]:
    """Every package that ``roots`` need, by name, roots included.

    A dependency on a package named in ``without`` counts as satisfied. `NotFoundError` names the
    first unmet dependency and how it was reached. A pin that a dependency forbids is given up.
    """
    choice = Choice(catalog, dict(pins or {}))
    for name in without:
        if not catalog.best(name) and not catalog.providers(name):
            raise UsageError(f"The recipe cuts {name!r}, but no suite has a package of that name.")
    while True:
        chosen = _attempt(sorted(set(roots)), frozenset(without), choice)
        if chosen is not None:
            return dict(sorted(chosen.items()))


def _attempt(roots: list[str], without: frozenset[str], choice: Choice) -> dict[str, BinaryPackage] | None:
    """One pass, breadth first; None if a pin had to be given up and everything is to be done anew."""
    chosen: dict[str, BinaryPackage] = {}
    reached: dict[str, str] = {}
    for name in roots:
        package = choice.package(name)
        if package is None:
            raise NotFoundError(f"The recipe asks for the package {name!r}, but no suite has it.")
        chosen[name] = package
    queue = list(chosen.values())
    for package in queue:  # grows while it is read
        for group in package.depends:
            if any(_satisfied(relation, chosen) for relation in group):
                continue
            needed = next((p for relation in group for p in choice.satisfying(relation)), None)
            if any(relation.name in without for relation in group) or (needed and needed.name in without):
                continue
            if needed is None or needed.name in chosen:
                if choice.unpin_for(package, group):
                    return None
                raise NotFoundError(_unmet(package, group, reached))
            chosen[needed.name] = needed
            reached[needed.name] = package.name
            queue.append(needed)
    return chosen


def _satisfied(relation: Relation, chosen: Mapping[str, BinaryPackage]) -> bool:
    package = chosen.get(relation.name)
    if package and relation.allows(package.version):
        return True
    return any(_provides(provider, relation) for provider in chosen.values())


def _provides(package: BinaryPackage, relation: Relation) -> bool:
    """Whether it provides the relation's name; a constrained one needs a versioned Provides."""
    return any(
        provided.name == relation.name
        and (not relation.operator or (provided.operator == "=" and relation.allows(provided.version)))
        for provided in package.provides
    )


def _unmet(package: BinaryPackage, group: Group, reached: Mapping[str, str]) -> str:
    chain = [package.name]
    while chain[-1] in reached:
        chain.append(reached[chain[-1]])
    way = " <- ".join(chain)
    return (
        f"{package.name} {package.version} depends on {' | '.join(map(str, group))}, which no suite "
        f"satisfies (needed by: {way}). Add a suite to the recipe, or cut it with `without`."
    )

"""Recipes: what a bundle is made of, as written by people (TOML).

::

    [debian]
    suites = ["trixie", "trixie-updates", "trixie-security"]   # later ones may replace earlier ones' versions
    sections = ["main"]
    keyring = "debian-archive-keyring.gpg"                     # next to the recipe, or absolute

    [python]
    version = "3.13"                                           # the guest's CPython, for choosing wheels

    [component.core]
    packages = ["bash", "tmux"]                                # taken with everything they depend on
    without = ["perl-base"]                                    # dependencies that are cut
    wheels = ["h11>=0.16"]                                     # requirement specifiers, with all they need
    without-wheels = ["jedi"]                                  # projects that are cut from that
    optional = true                                            # only in bundles that ask for it by name
    [[component.core.npm]]                                     # an npm package; the newest that begins with
    name = "code-server"                                       # version, with what the shrinkwraps in these
    version = "4"                                              # folders of it dictate, less what is cut
    trees = ["lib/vscode"]
    without = ["kerberos"]
    [[component.core.archive]]                                 # a tarball or zip file: see `archive`
    [component.core.stage]                                     # free-form; read by the builder

The first component is the base of the others: every bundle has it, and they hold nothing that it holds.

A recipe that begins with ``extends = "openhands"`` is the built-in one of that name with changes: each key
that it has below ``[component.NAME]`` and ``[component.NAME.stage]`` takes the place of the same one there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftbox.bundle.archive import Archive, Origin, is_digest
from graftbox.errors import NotFoundError, UsageError

RECIPES = Path(__file__).parent / "recipes"
BUILTIN = "openhands"
MODULE_NAME = r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*"
"""How npm packages are called, with or without a scope."""
DEFAULT = "default"
ARCHITECTURES = ("amd64", "arm64")


@dataclass(frozen=True)
class NpmPackage:
    """An npm package: ``version`` is a version or its beginning (empty: the latest).

    ``trees`` are the folders in it whose ``npm-shrinkwrap.json`` says what ``node_modules`` beside that holds
    (``""`` is the package's own); ``without`` are names or globs that are cut, with what only they need.
    """

    name: str
    version: str = ""
    trees: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Component:
    """One part of a bundle: its root packages and wheels, what is cut, and how it is staged."""

    name: str
    packages: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    without_wheels: tuple[str, ...] = ()
    stage: Mapping[str, Any] | None = None
    npm: tuple[NpmPackage, ...] = ()
    optional: bool = False
    archives: tuple[Archive, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe. ``digest`` is that of the file; ``path`` is where it was read."""

    path: Path
    digest: str
    suites: tuple[str, ...]
    sections: tuple[str, ...]
    keyring: Path
    python: str | None
    components: Mapping[str, Component]

    @classmethod
    def builtin(cls, name: str = BUILTIN) -> Recipe:
        """A recipe that ships with graftbox: ``openhands`` or ``tools``."""
        path = RECIPES / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
            raise NotFoundError(f"There is no built-in recipe {name!r}. Name one of {known}, or give a file.")
        return cls.read(path)

    @classmethod
    def find(cls, name: str) -> Recipe:
        """The recipe file at that path, or the built-in recipe of that name."""
        if re.fullmatch(r"[a-z0-9-]+", name) and not Path(name).is_file():
            return cls.builtin(name)
        return cls.read(Path(name))

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Reads a recipe file; `NotFoundError` without one, `UsageError` for a mistake in it."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise NotFoundError(f"Cannot read the recipe {path}: {error.strerror}.") from error
        return parse(data, path)

    @property
    def lock_path(self) -> Path:
        """Where this recipe's lock belongs: ``<name>.lock.json`` next to it."""
        return self.path.with_suffix(".lock.json")

    @property
    def lock_command(self) -> str:
        """What a user types to lock this recipe."""
        if self.path.parent != RECIPES:
            return f"graftbox lock {self.path}"
        return "graftbox lock" if self.path.stem == BUILTIN else f"graftbox lock {self.path.stem}"

    @property
    def resolution_digest(self) -> str:
        """Digest of the parts that decide what is locked; staging may change without a new lock."""
        facts = {
            "suites": self.suites,
            "sections": self.sections,
            "python": self.python,
            "components": {
                name: [
                    *map(sorted, (part.packages, part.without, part.wheels)),
                    *([sorted(part.without_wheels)] if part.without_wheels else []),
                    *([dataclasses.asdict(package) for package in part.npm]),
                    *(_resolved(archive) for archive in part.archives),
                ]
                for name, part in self.components.items()
            },
        }
        return "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def base(self) -> str:
        """The name of the component that every bundle has."""
        return next(iter(self.components))

    @property
    def defaults(self) -> tuple[str, ...]:
        """The components of a bundle for which none are named."""
        return tuple(name for name, part in self.components.items() if not part.optional)

    def chosen(self, names: Collection[str] | None) -> tuple[str, ...]:
        """The components that ``names`` stand for, in the recipe's order: none, or `DEFAULT` beside others,
        is all that are not optional; the base is always among them."""
        wanted = {DEFAULT} if not names else set(names)
        for name in wanted - {DEFAULT}:
            self.component(name)
        wanted |= {self.base, *(self.defaults if DEFAULT in wanted else ())}
        return tuple(name for name in self.components if name in wanted)

    @property
    def archive_addresses(self) -> dict[str, str]:
        """Where the archives of all components are from, by SHA-256."""
        return {
            origin.sha256: origin.address
            for part in self.components.values()
            for archive in part.archives
            for _arch, origin in archive.origins
        }

    def component(self, name: str) -> Component:
        """The component of that name, or `NotFoundError` with those that exist."""
        try:
            return self.components[name]
        except KeyError:
            known = ", ".join(self.components)
            raise NotFoundError(
                f"{self.path.name} has no component {name!r}; it has {known}. {DEFAULT!r} is all but the "
                "optional ones."
            ) from None


def parse(data: bytes, path: Path) -> Recipe:
    """A recipe from the bytes of its file; every mistake is a `UsageError` naming file and key."""
    document, folder = _document(data, path), path.parent
    if (name := document.pop("extends", None)) is not None:
        if not isinstance(name, str) or not (RECIPES / f"{name}.toml").is_file():
            raise UsageError(f"{path}: extends must be the name of a built-in recipe, such as {BUILTIN!r}.")
        below = (RECIPES / f"{name}.toml").read_bytes()
        document, folder = _extended(_document(below, path), document, path), RECIPES
        data = below + data
    top = _Table(path, "", document)
    top.only("debian", "python", "component")
    debian = top.table("debian")
    debian.only("suites", "sections", "keyring")
    suites = debian.strings("suites")
    if not suites:
        raise debian.wrong("suites", "a list of at least one suite")
    python = top.table("python")
    python.only("version")
    version = python.string("version", "")
    if version and not re.fullmatch(r"3\.\d+", version):
        raise python.wrong("version", 'a minor version such as "3.13"')
    components = _components(top.table("component"))
    if not version and any(part.wheels for part in components.values()):
        raise python.wrong("version", "set, because a component asks for wheels")
    return Recipe(
        path=path,
        digest="sha256:" + hashlib.sha256(data).hexdigest(),
        suites=suites,
        sections=debian.strings("sections", ("main",)),
        keyring=folder / debian.string("keyring", "debian-archive-keyring.gpg"),
        python=version or None,
        components=components,
    )


def _document(data: bytes, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}.") from error


def _extended(below: dict[str, Any], above: dict[str, Any], path: Path) -> dict[str, Any]:
    """The recipe ``below`` with what ``above`` has in its place, key by key."""
    changes = _Table(path, "", above).table("component")
    found = {**below, **{key: value for key, value in above.items() if key != "component"}}
    components = found["component"] = dict(below["component"])
    for name in changes.values:
        table, before = changes.table(name), components.get(name, {})
        stage = {**before.get("stage", {}), **table.table("stage").values}
        components[name] = {**before, **table.values, **({"stage": stage} if stage else {})}
    return found


def _resolved(archive: Archive) -> dict[str, Any]:
    """What of an archive decides what is locked: not where it is from."""
    digests = {arch: origin.sha256 for arch, origin in archive.origins}
    return {"archive": archive.name, "version": archive.version, "sha256": digests}


def _components(table: _Table) -> dict[str, Component]:
    components = {}
    for name in table.values:
        part = table.table(name)
        part.only("packages", "without", "wheels", "without-wheels", "npm", "archive", "optional", "stage")
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name == DEFAULT:
            raise table.wrong(name, f"named with lower-case letters, digits and dashes, and not {DEFAULT!r}")
        components[name] = Component(
            name=name,
            packages=part.strings("packages"),
            without=part.strings("without"),
            wheels=part.strings("wheels"),
            without_wheels=part.strings("without-wheels"),
            npm=tuple(map(_npm_package, part.tables("npm"))),
            stage=part.table("stage").values,
            optional=part.boolean("optional"),
            archives=tuple(map(_archive, part.tables("archive"))),
        )
    if not components:
        raise table.wrong("", "at least one table [component.NAME]")
    return components


def _archive(table: _Table) -> Archive:
    table.only("name", "version", "strip", *ARCHITECTURES)
    name, version, strip = table.string("name", ""), table.string("version", ""), table.values.get("strip", 0)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+_-]*", name):
        raise table.wrong("name", "a name of lower-case letters, digits and .+_-")
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+~_-]*", version):
        raise table.wrong("version", "the archive's version")
    if type(strip) is not int or not 0 <= strip < 10:
        raise table.wrong("strip", "the number of leading folders to drop")
    origins = []
    for arch in ARCHITECTURES:
        if arch in table.values:
            row = table.table(arch)
            row.only("from", "sha256")
            address, sha256 = row.string("from", ""), row.string("sha256", "")
            if not address:
                raise row.wrong("from", "an address or the path of a file")
            if not is_digest(sha256):
                raise row.wrong("sha256", "64 lower-case hex digits")
            if "://" not in address and not address.startswith("file:"):
                address = str(table.path.absolute().parent / address)
            origins.append((arch, Origin(address, sha256)))
    if not origins:
        raise table.wrong("", f"given where it is from, for {' or '.join(ARCHITECTURES)}")
    return Archive(name, version, strip, tuple(origins))


def _npm_package(table: _Table) -> NpmPackage:
    table.only("name", "version", "trees", "without")
    name, version = table.string("name", ""), table.string("version", "")
    if not re.fullmatch(MODULE_NAME, name):
        raise table.wrong("name", "the name of an npm package")
    if not re.fullmatch(r"(\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?)?", version):
        raise table.wrong("version", 'a version or the beginning of one, such as "4"')
    trees = table.values.get("trees", [])
    if not isinstance(trees, list) or not all(isinstance(tree, str) for tree in trees):
        raise table.wrong("trees", "a list of folders in the package")
    return NpmPackage(name, version, tuple(trees), table.strings("without"))


@dataclass(frozen=True)
class _Table:
    """A TOML table that knows its file and place, for messages."""

    path: Path
    place: str
    values: Mapping[str, Any]

    def wrong(self, key: str, expected: str) -> UsageError:
        return UsageError(f"{self.path}: {self.at(key) or 'the recipe'} must be {expected}.")

    def at(self, key: str) -> str:
        return ".".join(part for part in (self.place, key) if part)

    def only(self, *known: str) -> None:
        for key in self.values:
            if key not in known:
                raise UsageError(f"{self.path}: unknown key {self.at(key)}; known here: {', '.join(known)}.")

    def table(self, key: str) -> _Table:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "a table")
        return _Table(self.path, self.at(key), value)

    def tables(self, key: str) -> list[_Table]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, "a list of tables")
        return [_Table(self.path, self.at(key), item) for item in value]

    def string(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def boolean(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def strings(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        value = self.values.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.wrong(key, "a list of strings")
        return tuple(value)

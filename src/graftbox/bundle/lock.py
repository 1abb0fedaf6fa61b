"""Locks: which packages a bundle is made of, from Debian, PyPI, npm and archives that the recipe names, by
hash and without any address.

A lock is JSON next to its recipe, written with sorted keys, so that it can be reviewed as a diff::

    {"schema": 1, "recipe": "sha256:…", "suites": {"trixie": {"date": "2026-09-12T07:55:41Z"}},
     "architectures": {"amd64": {"packages": [LockedPackage…], "wheels": [LockedWheel…],
                                 "modules": [LockedModule…]}, "arm64": …}}

``modules`` and ``archives`` are there only if there are any.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from graftbox.bundle.recipe import ARCHITECTURES as ARCHITECTURES
from graftbox.bundle.recipe import MODULE_NAME, Recipe
from graftbox.errors import FormatError, NotFoundError, StorageError

SCHEMA = 1
ARCHIVES = ("debian", "debian-security")
NO_INTEGRITY = f"sha512-{'A' * 86}=="


@dataclass(frozen=True)
class LockedPackage:
    """One ``.deb``. ``path`` is below the archive's root, ``sha256`` bare hex, ``size`` in bytes.

    ``date`` is the signing time of the Release file that named it: when a snapshot archive has it.
    """

    name: str
    version: str
    archive: str
    path: str
    size: int
    sha256: str
    source: str
    date: str
    components: tuple[str, ...]

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class LockedWheel:
    """One wheel for the guest's Python. ``name`` is the normalised project name."""

    name: str
    version: str
    filename: str
    size: int
    sha256: str
    components: tuple[str, ...]


@dataclass(frozen=True)
class LockedModule:
    """One npm package. ``integrity`` is the registry's own (``sha512-…``, base64) of the same bytes.

    ``places`` are the folders that it is unpacked into, below that of the package that was asked for:
    ``code-server/lib/vscode/node_modules/ws``.
    """

    name: str
    version: str
    integrity: str
    size: int
    sha256: str
    places: tuple[str, ...]
    components: tuple[str, ...]

    @property
    def filename(self) -> str:
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"


@dataclass(frozen=True)
class LockedArchive:
    """One archive, whose address is in the recipe."""

    name: str
    version: str
    size: int
    sha256: str
    components: tuple[str, ...]

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}"


Entry = LockedPackage | LockedWheel | LockedModule | LockedArchive


@dataclass(frozen=True)
class LockedArchitecture:
    """What one CPU architecture's bundle is made of, sorted by name."""

    packages: tuple[LockedPackage, ...] = ()
    wheels: tuple[LockedWheel, ...] = ()
    modules: tuple[LockedModule, ...] = ()
    archives: tuple[LockedArchive, ...] = ()


@dataclass(frozen=True)
class Lock:
    """A whole lock. ``recipe`` is `Recipe.resolution_digest`; ``suites`` maps a suite to its date."""

    recipe: str
    suites: Mapping[str, str]
    architectures: Mapping[str, LockedArchitecture]

    @classmethod
    def of(cls, recipe: Recipe) -> Lock:
        """The lock that is in use for this recipe."""
        return cls.read(cls.place(recipe), recipe.lock_command)

    @staticmethod
    def place(recipe: Recipe) -> Path:
        """Where it is: in the folder ``$GRAFTBOX_LOCKS`` if there is one, else next to the recipe."""
        if folder := os.environ.get("GRAFTBOX_LOCKS"):
            override = Path(folder) / recipe.lock_path.name
            if override.is_file():
                return override
        return recipe.lock_path

    @classmethod
    def read(cls, path: Path, command: str = "graftbox lock") -> Lock:
        """Reads a lock file; `NotFoundError` without one, `FormatError` for a damaged one.

        ``command`` is what makes it.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise NotFoundError(
                f"Cannot read the lock {path}: {error.strerror}. Make it with `{command}`."
            ) from error
        return parse(data, str(path), command)

    def to_json(self) -> bytes:
        """The file's bytes; the same lock always gives the same ones."""
        document = {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "suites": {suite: {"date": date} for suite, date in self.suites.items()},
            "architectures": {
                name: {
                    "packages": _documents(locked.packages),
                    "wheels": _documents(locked.wheels),
                    **({"modules": _documents(locked.modules)} if locked.modules else {}),
                    **({"archives": _documents(locked.archives)} if locked.archives else {}),
                }
                for name, locked in self.architectures.items()
            },
        }
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    @property
    def digest(self) -> str:
        """``sha256:…`` of `to_json`."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    def write(self, path: Path) -> None:
        """Writes the lock whole or not at all."""
        temporary = path.with_name(f".{path.name}.new")
        try:
            try:
                temporary.write_bytes(self.to_json())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"Cannot write the lock {path}: {error.strerror}. Write it elsewhere with --output "
                "FOLDER/NAME.lock.json, and set GRAFTBOX_LOCKS to that folder to use it."
            ) from error

    def architecture(self, name: str) -> LockedArchitecture:
        """What is locked for that architecture, or `NotFoundError` with those that are."""
        try:
            return self.architectures[name]
        except KeyError:
            known = ", ".join(self.architectures)
            raise NotFoundError(f"The lock has no architecture {name!r}; it has {known}.") from None

    def entries(self, arch: str, components: Collection[str] | None = None) -> list[Entry]:
        """Packages, wheels, npm packages that these components (all of them by default) consist of."""
        locked = self.architecture(arch)
        entries: list[Entry] = [*locked.packages, *locked.wheels, *locked.modules, *locked.archives]
        return [e for e in entries if components is None or set(components) & set(e.components)]


def _order(entry: Entry) -> tuple[str, str]:
    return entry.name, entry.version


def _documents(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(entry) for entry in sorted(entries, key=_order)]


def parse(data: bytes, where: str, command: str = "graftbox lock") -> Lock:
    """A lock from its bytes; whatever is wrong is a `FormatError` that says how to get a good one."""
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"not a lock of schema {SCHEMA}")
        return Lock(
            recipe=_string(document, "recipe"),
            suites={suite: _string(facts, "date") for suite, facts in document["suites"].items()},
            architectures={
                name: LockedArchitecture(
                    packages=tuple(_entry(LockedPackage, facts) for facts in locked["packages"]),
                    wheels=tuple(_entry(LockedWheel, facts) for facts in locked["wheels"]),
                    modules=tuple(_entry(LockedModule, facts) for facts in locked.get("modules", ())),
                    archives=tuple(_entry(LockedArchive, facts) for facts in locked.get("archives", ())),
                )
                for name, locked in document["architectures"].items()
            },
        )
    except KeyError as error:
        problem = f"{error.args[0]!r} is missing"
    except (ValueError, TypeError, AttributeError) as error:
        problem = str(error)
    raise FormatError(f"The lock {where} is damaged: {problem}. Make it again with `{command}`.")


def _string(facts: Mapping[str, Any], key: str) -> str:
    value = facts[key]
    if not isinstance(value, str):
        raise TypeError(f"{key!r} is not a string")
    return value


EntryT = TypeVar("EntryT", LockedPackage, LockedWheel, LockedModule, LockedArchive)


def _entry(kind: type[EntryT], facts: Mapping[str, Any]) -> EntryT:
    """One entry, checked so far that nothing in it can point outside an archive or the store."""
    fields = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(facts) - fields:
        raise ValueError(f"{facts.get('name')!r} has an unknown key {min(unknown)!r}")
    values = {name: _string(facts, name) for name in fields - {"size", "components", "places"}}
    what = values["name"]
    if not isinstance(facts["size"], int) or facts["size"] <= 0:
        raise ValueError(f"the size of {what!r} is not a number of bytes")
    if not re.fullmatch("[0-9a-f]{64}", values["sha256"]):
        raise ValueError(f"the sha256 of {what!r} is not 64 lower-case hex digits")
    lists: dict[str, tuple[str, ...]] = {
        name: _strings(facts, name) for name in fields & {"components", "places"}
    }
    place = values.get("path") or values.get("filename", "")
    if ("/" in place and kind is LockedWheel) or not all(map(_is_inside, (place, *lists.get("places", ())))):
        raise ValueError(f"the file of {what!r} is not a plain relative path")
    if not re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", values.get("integrity", NO_INTEGRITY)):
        raise ValueError(f"the integrity of {what!r} is not a sha512")
    if kind is LockedModule and not re.fullmatch(MODULE_NAME, what):
        raise ValueError(f"{what!r} is not the name of an npm package")
    if values.get("archive", ARCHIVES[0]) not in ARCHIVES:
        raise ValueError(f"the archive of {what!r} is none of {', '.join(ARCHIVES)}")
    facts_of_kind: dict[str, Any] = {**values, **lists, "size": facts["size"]}
    return kind(**facts_of_kind)


def _strings(facts: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = facts[key]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"the {key} of {facts['name']!r} are not a list of names")
    return tuple(value)


def _is_inside(place: str) -> bool:
    return not place.startswith("/") and ".." not in place.split("/")

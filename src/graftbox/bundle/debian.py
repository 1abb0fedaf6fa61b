"""Debian's words: versions, dependency relations and Packages files (Debian Policy, chapters 5 and 7)."""

from __future__ import annotations

import functools
import lzma
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from graftbox.errors import FormatError

Key = tuple[int, tuple[object, ...], tuple[object, ...]]


@functools.cache
def version_key(version: str) -> Key:
    """Sorts versions as dpkg does (Policy 5.6.12): ``~`` before the end, letters before the rest."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    if not epoch.isdigit() or not upstream:
        raise FormatError(f"{version!r} is not a Debian version.")
    return int(epoch), _part_key(upstream), _part_key(revision or "0")


def _part_key(part: str) -> tuple[object, ...]:
    """Runs of other characters and of digits in turn; the empty run at the end sorts before all but ``~``."""
    return tuple(
        ((*(_rank(char) for char in text), 0), int(number or 0))
        for text, number in re.findall(r"([^0-9]*)([0-9]*)", part)
    )


def _rank(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256


@dataclass(frozen=True)
class Relation:
    """One alternative of a dependency: a package and perhaps a constraint on its version."""

    name: str
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name

    def allows(self, version: str) -> bool:
        """Whether a package of that version satisfies the constraint."""
        if not self.operator:
            return True
        have, want = version_key(version), version_key(self.version)
        return {
            "<<": have < want,
            "<=": have <= want,
            "<": have <= want,
            "=": have == want,
            ">": have >= want,
            ">=": have >= want,
            ">>": have > want,
        }[self.operator]


Group = tuple[Relation, ...]
RELATION = re.compile(
    r"([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?\s*(?:\(\s*(<<|<=|<|=|>=|>>|>)\s*([^\s)]+)\s*\))?"
)


def parse_relations(field: str) -> tuple[Group, ...]:
    """Groups of alternatives of a Depends, Pre-Depends or Provides field."""
    groups = []
    for group in filter(None, (text.strip() for text in field.split(","))):
        alternatives = []
        for text in group.split("|"):
            match = RELATION.fullmatch(text.strip())
            if not match:
                raise FormatError(f"{text.strip()!r} is not a dependency.")
            alternatives.append(Relation(match[1], match[2] or "", match[3] or ""))
        groups.append(tuple(alternatives))
    return tuple(groups)


@dataclass(frozen=True)
class BinaryPackage:
    """One stanza of a Packages file. ``path`` is below the archive's root, ``sha256`` bare hex.

    ``date`` is that of the Release file which signed for it.
    """

    name: str
    version: str
    depends: tuple[Group, ...]
    provides: tuple[Relation, ...]
    archive: str
    path: str
    size: int
    sha256: str
    source: str
    date: str


class PackageIndex:
    """One Packages file: stanzas by name, parsed only when asked for (a suite has 70 000)."""

    def __init__(self, data: bytes, archive: str, date: str) -> None:
        self.archive = archive
        self.date = date
        self._stanzas: dict[str, list[bytes]] = defaultdict(list)
        self._providers: dict[str, set[str]] = defaultdict(set)
        for stanza in data.split(b"\n\n"):
            if not stanza.startswith(b"Package: "):
                if stanza.strip():
                    raise FormatError("A Packages file has a stanza that does not begin with `Package:`.")
                continue
            name = stanza[9 : stanza.index(b"\n")].strip().decode()
            self._stanzas[name].append(stanza)
            at = stanza.find(b"\nProvides: ")
            if at >= 0:
                line = stanza[at + 11 :].partition(b"\n")[0].decode()
                for (provided,) in parse_relations(line):
                    self._providers[provided.name].add(name)

    def packages(self, name: str) -> list[BinaryPackage]:
        """Every version of that package."""
        return [self._parse(stanza) for stanza in self._stanzas.get(name, ())]

    def providers(self, name: str) -> set[str]:
        """Names of packages, some version of which provides ``name``."""
        return self._providers.get(name, set())

    def _parse(self, stanza: bytes) -> BinaryPackage:
        fields = parse_stanza(stanza.decode(errors="replace"))
        try:
            name, version = fields["Package"], fields["Version"]
            source = fields.get("Source", name)
            depends = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}"
            return BinaryPackage(
                name=name,
                version=version,
                depends=parse_relations(depends),
                provides=tuple(group[0] for group in parse_relations(fields.get("Provides", ""))),
                archive=self.archive,
                path=fields["Filename"],
                size=int(fields["Size"]),
                sha256=fields["SHA256"],
                source=source if "(" in source else f"{source} ({version})",
                date=self.date,
            )
        except (KeyError, ValueError) as error:
            raise FormatError(
                f"A Packages file's stanza of {fields.get('Package')} lacks {error}."
            ) from error


class Catalog:
    """Several Packages files as one: of each package the highest version counts."""

    def __init__(self, indexes: Iterable[PackageIndex]) -> None:
        self.indexes = tuple(indexes)
        self._best: dict[str, BinaryPackage | None] = {}

    def versions(self, name: str) -> list[BinaryPackage]:
        """Every version of that package in every suite."""
        return [package for index in self.indexes for package in index.packages(name)]

    def best(self, name: str) -> BinaryPackage | None:
        """The highest version of that package, from the earliest suite that has it."""
        if name not in self._best:
            found = self.versions(name)
            self._best[name] = max(found, key=lambda package: version_key(package.version), default=None)
        return self._best[name]

    def providers(self, name: str) -> list[str]:
        """Names of the packages that may provide the virtual package ``name``, sorted."""
        return sorted(set().union(*(index.providers(name) for index in self.indexes)))


def parse_stanza(text: str) -> dict[str, str]:
    """Fields of one deb822 stanza; continuation lines are joined by newlines."""
    fields: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if line[:1] in {" ", "\t"}:
            fields[key] = f"{fields.get(key, '')}\n{line[1:]}"
        else:
            key, _, value = line.partition(":")
            fields[key] = value.strip()
    return fields


def decompressed(data: bytes, name: str) -> bytes:
    """The bytes of a ``.xz``, ``.gz`` or plain index file."""
    try:
        if name.endswith(".xz"):
            return lzma.decompress(data)
        if name.endswith(".gz"):
            return zlib.decompress(data, wbits=31)
    except (lzma.LZMAError, zlib.error) as error:
        raise FormatError(f"{name} cannot be decompressed: {error}.") from error
    return data

"""A recipe's table ``[component.NAME.stage]``, parsed: which files of the packages go where.

``{triplet}`` in a source stands for the architecture's library folder, ``{cpu}`` in a source or destination
for Node's name of it; destinations are below /openhands::

    [[take]]      from = "usr/bin/git"  to = "libexec/git"   # a file, or a folder, with only/except globs
    libraries     ["libnss_compat.so.2"]                     # opened by name at run time: no ELF file says it
    certificates  {from = "usr/share/ca-certificates", to = "etc/ssl/certs/ca-certificates.crt"}
    wheels        "lib/python3.13/dist-packages"             # where wheels are unpacked
    [[from-wheel.NAME]]  from = ""  to = "…"                 # what goes where of that wheel, instead of all
    [[from-npm]]  from = "code-server"  to = "…"             # of npm packages, by the places in the lock
    [[from-archive]]  from = "openvscode-server"  to = "…"   # of archives, by the recipe's name for them
    [native]      …                                          # what is compiled: see `native_modules`
    folders       ["workspace"]
    [links]       "bin/oh-rg" = "../libexec/rg"
    [scripts]     "bin/oh-git" = "#!…"
    [files]       "browser/fonts/fonts.conf" = "…"           # the same, but not executable
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from graftbox.bundle import native_modules, rules
from graftbox.bundle.native_modules import NativePlan
from graftbox.errors import UsageError

T = TypeVar("T")


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_take(value: object) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(end), str) for end in ("from", "to")):
        return False
    return all(_is_words(value.get(globs, [])) for globs in ("only", "except"))


def _is_takes(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_take, value))


WORDS = _is_words, "a list of strings"
TEXTS = _is_texts, "a table of strings"
TAKES = _is_takes, "a list of tables with from and to (and only, except: lists of globs)"
KEYS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "take": TAKES,
    "libraries": WORDS,
    "certificates": (_is_take, "a table with from and to"),
    "wheels": (lambda value: isinstance(value, str), "a string"),
    "from-wheel": (
        lambda value: isinstance(value, dict) and all(map(_is_takes, value.values())),
        "a table with, for each wheel, a list of tables with from and to",
    ),
    "from-npm": TAKES,
    "from-archive": TAKES,
    "native": (lambda value: isinstance(value, dict), "a table"),
    "files": TEXTS,
    "folders": WORDS,
    "links": TEXTS,
    "scripts": TEXTS,
}
"""What a stage table may hold, with what each of it must be."""


@dataclass(frozen=True)
class Take:
    """Files at or below ``source`` go to ``destination``; globs are matched against the path below it.

    An empty ``source`` is the root.
    """

    source: str
    destination: str
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def target(self, name: str) -> str | None:
        """Where the package's file ``name`` goes, or None."""
        if name == self.source:
            return self.destination
        above = f"{self.source}/" if self.source else ""
        if not name.startswith(above):
            return None
        rest = name.removeprefix(above)
        if self.only and not _matches(rest, self.only):
            return None
        return None if _matches(rest, self.without) else f"{self.destination}/{rest}"


def _matches(path: str, globs: Iterable[str]) -> bool:
    """Whether a glob matches ``path`` or a folder above it; a glob without a slash matches any name in it."""
    parts = path.split("/")
    above = ["/".join(parts[: index + 1]) for index in range(len(parts))]
    return any(
        fnmatchcase(candidate, glob) for glob in globs for candidate in (above if "/" in glob else parts)
    )


@dataclass(frozen=True)
class Plan:
    """A parsed stage table for one architecture."""

    takes: tuple[Take, ...]
    triplet: str
    libraries: tuple[str, ...] = ()
    certificates: Take | None = None
    wheels: str = ""
    wheel_takes: Mapping[str, tuple[Take, ...]] = field(default_factory=dict)
    npm_takes: tuple[Take, ...] = ()
    archive_takes: tuple[Take, ...] = ()
    native: NativePlan | None = None
    folders: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def library_folder(self) -> str:
        return f"usr/lib/{self.triplet}/"

    def wants(self, name: str) -> bool:
        """Whether a package's file is worth unpacking."""
        return (
            any(take.target(name) for take in self.takes)
            or bool(self.certificates and self.certificates.target(name))
            or self.is_library(name)
            or self.is_licence(name)
        )

    def npm_targets(self, name: str) -> list[str]:
        """Where a file of an npm package goes, ``name`` beginning with its place in the lock."""
        return [target for take in self.npm_takes if (target := take.target(name))]

    def archive_targets(self, name: str) -> list[str]:
        """Where a file of an archive goes, ``name`` beginning with the archive's."""
        return [target for take in self.archive_takes if (target := take.target(name))]

    def is_library(self, name: str) -> bool:
        rest = name.removeprefix(self.library_folder)
        return rest != name and "/" not in rest and ".so" in rest

    def is_licence(self, name: str) -> bool:
        parts = name.split("/")
        return parts[:3] == ["usr", "share", "doc"] and (len(parts) == 4 or parts[4:] == ["copyright"])


def shared(plans: Sequence[Plan]) -> Plan:
    """What several components have in common: their wheels, and what all of their tables say alike."""
    first, *others = plans
    libraries = tuple(name for name in first.libraries if all(name in plan.libraries for plan in others))
    if len({plan.wheels for plan in plans}) > 1:
        raise UsageError("Components of a recipe that share wheels must unpack them into the same folder.")
    return Plan(
        (),
        first.triplet,
        libraries,
        wheels=first.wheels,
        wheel_takes=_alike(plan.wheel_takes for plan in plans),
        links=_alike(plan.links for plan in plans),
        scripts=_alike(plan.scripts for plan in plans),
        files=_alike(plan.files for plan in plans),
    )


def _alike(tables: Iterable[Mapping[str, T]]) -> dict[str, T]:
    """The rows that all of the tables have."""
    first, *others = tables
    return {key: value for key, value in first.items() if all(table.get(key) == value for table in others)}


def parse(table: Mapping[str, Any], arch: str) -> Plan:
    """The plan that a stage table describes; a mistake in the table is a `UsageError`."""
    if unknown := set(table) - set(KEYS):
        raise UsageError(
            f"Unknown key {min(unknown)!r} in a recipe's stage table; known: {', '.join(sorted(KEYS))}."
        )
    for key, value in table.items():
        fits, kind = KEYS[key]
        if not fits(value):
            raise UsageError(f"The key {key!r} of a recipe's stage table must be {kind}.")
    triplet = rules.TRIPLETS[arch]

    def take(entry: Mapping[str, Any]) -> Take:
        source = entry["from"].replace("{triplet}", triplet).replace("{cpu}", rules.CPUS[arch])
        only, without = tuple(entry.get("only", ())), tuple(entry.get("except", ()))
        return Take(source, entry["to"].replace("{cpu}", rules.CPUS[arch]), only, without)

    return Plan(
        takes=tuple(take(entry) for entry in table.get("take", ())),
        triplet=triplet,
        libraries=tuple(table.get("libraries", ())),
        certificates=take(table["certificates"]) if "certificates" in table else None,
        wheels=table.get("wheels", ""),
        npm_takes=tuple(map(take, table.get("from-npm", ()))),
        archive_takes=tuple(map(take, table.get("from-archive", ()))),
        native=native_modules.parse(table["native"]) if table.get("native") else None,
        wheel_takes={name: tuple(map(take, rows)) for name, rows in table.get("from-wheel", {}).items()},
        folders=tuple(table.get("folders", ())),
        links={path.replace("{cpu}", rules.CPUS[arch]): to for path, to in table.get("links", {}).items()},
        scripts=table.get("scripts", {}),
        files=table.get("files", {}),
    )

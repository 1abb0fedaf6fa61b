"""Resolves npm packages: which version, and the tree of ``node_modules`` that its shrinkwraps dictate.

A package that ships ``npm-shrinkwrap.json`` files has had its dependencies solved by its makers, and npm
itself installs exactly those (npm-shrinkwrap.json(5), lockfileVersion 2 and 3). So nothing is solved here:
what its own dependencies lead to is taken, for one platform, less what the recipe cuts. npm is not run.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from graftbox.bundle import rules, tgz
from graftbox.bundle.download import Downloader, shown
from graftbox.bundle.lock import LockedModule
from graftbox.bundle.recipe import NpmPackage
from graftbox.bundle.sources import Sources
from graftbox.errors import FormatError, NotFoundError, TransportError, UsageError, VerificationError
from graftbox.store import Store

ACCEPT = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8"
ALGORITHMS = ("sha512", "sha384", "sha256", "sha1")
SHRINKWRAP = "npm-shrinkwrap.json"
WORKERS = 8


@dataclass(frozen=True)
class Release:
    """One version of a package, as a registry or a shrinkwrap names it; ``integrity`` is one hash."""

    name: str
    version: str
    integrity: str


@dataclass(frozen=True)
class Resolver:
    """Looks packages up and fetches them; ``known`` is size and sha256 of what was fetched, by integrity."""

    store: Store
    sources: Sources
    downloader: Downloader
    known: dict[str, tuple[int, str]] = field(default_factory=dict)

    def resolve(
        self, components: Mapping[str, Sequence[NpmPackage]], arch: str, keep: Mapping[str, str] | None = None
    ) -> tuple[LockedModule, ...]:
        """What these components' packages consist of; ``keep`` maps packages to versions they stay at."""
        places: dict[Release, dict[str, None]] = {}
        members: dict[Release, set[str]] = {}
        for component, packages in components.items():
            for wanted in packages:
                for place, release in self._tree(wanted, arch, (keep or {}).get(wanted.name)):
                    places.setdefault(release, {})[place] = None
                    members.setdefault(release, set()).add(component)
        releases = sorted(places, key=lambda one: (one.name, one.version))
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            files = list(pool.map(self._fetched, releases))
        return tuple(
            LockedModule(
                one.name,
                one.version,
                *file,
                tuple(sorted(places[one])),
                tuple(sorted(members[one])),
            )
            for one, file in zip(releases, files, strict=True)
        )

    def _tree(self, wanted: NpmPackage, arch: str, version: str | None) -> Iterator[tuple[str, Release]]:
        """The package and all that its trees hold, with their places."""
        release = self._release(wanted, version)
        yield wanted.name, release
        unmet = set(wanted.without)
        _integrity, _size, sha256 = self._fetched(release)
        files = [f"{tree}/{SHRINKWRAP}".lstrip("/") for tree in wanted.trees]
        path = self.store.blob_path(f"sha256:{sha256}")
        found = {name: file.data for name, file in tgz.nodes(path, wanted.name, files.__contains__)}
        for name in files:
            if name not in found:
                raise UsageError(f"The npm package {wanted.name} {release.version} has no file {name}.")
            packages = _packages(found[name], f"{name} of {wanted.name}")
            for place, inner in closure(packages, arch, wanted.without, unmet):
                yield f"{wanted.name}/{name.removesuffix(SHRINKWRAP)}{place}", inner
        if unmet:
            raise UsageError(f"The recipe cuts {min(unmet)!r}, which nothing in {wanted.name} needs.")

    def _release(self, wanted: NpmPackage, version: str | None) -> Release:
        """The newest version that the recipe allows, or exactly the given one."""
        versions: Mapping[str, Any] = {}
        latest = ""
        for registry in self.sources.registries(wanted.name):
            document = packument(self.downloader, registry, wanted.name)
            versions, latest = document.get("versions", {}), document.get("dist-tags", {}).get("latest", "")
            if versions:
                break
        if version is None:
            version = newest(versions, wanted.version) if wanted.version else latest
        facts = versions.get(version or "")
        if facts is None:
            what = f"{wanted.name} {version or wanted.version}".strip()
            raise NotFoundError(f"No npm registry has {what}. Name another version in the recipe.")
        return Release(wanted.name, str(version), strongest(str(facts["dist"].get("integrity", ""))))

    def _fetched(self, release: Release) -> tuple[str, int, str]:
        """Integrity, size and sha256 of the package's file, which is in the store afterwards."""
        known = self.known.get(release.integrity)
        if known and self.store.has(f"sha256:{known[1]}", known[0]):
            return release.integrity, *known
        failure: Exception | None = None
        entry = LockedModule(release.name, release.version, release.integrity, 0, "", (), ())
        for url in addresses(entry, self.sources, self.downloader):
            try:
                return self._download(url, release)
            except (NotFoundError, TransportError) as error:
                failure = failure or error
        raise failure or NotFoundError(f"No npm registry has {release.name}.")

    def _download(self, url: str, release: Release) -> tuple[str, int, str]:
        document = self.downloader.read(url)
        algorithm = release.integrity.partition("-")[0]
        if algorithm not in ALGORITHMS or integrity_of(document.data, algorithm) != release.integrity:
            raise VerificationError(
                f"{shown(url)} is not what its registry or shrinkwrap promises, "
                f"{release.integrity or 'nothing'}. Nothing was kept; use another registry (--npm-registry)."
            )
        sha256 = self.store.put(document.data).removeprefix("sha256:")
        integrity = integrity_of(document.data, ALGORITHMS[0])
        self.known[integrity] = self.known[release.integrity] = len(document.data), sha256
        return integrity, len(document.data), sha256


def integrity_of(data: bytes, algorithm: str) -> str:
    """The hash of a file as npm writes it: ``sha512-`` and base64 (W3C, Subresource Integrity)."""
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def strongest(integrity: str) -> str:
    """The best hash of several that are separated by spaces; empty without one that we know."""
    found = {word.partition("-")[0]: word for word in integrity.split()}
    return next((found[algorithm] for algorithm in ALGORITHMS if algorithm in found), "")


def addresses(entry: LockedModule, sources: Sources, downloader: Downloader) -> Iterator[str]:
    """Where a package's file may be had: where registries usually have it, then where they say it is."""
    usual = [f"{r}/{entry.name}/-/{entry.filename}" for r in sources.registries(entry.name)]
    yield from usual
    for registry in sources.registries(entry.name):
        facts = packument(downloader, registry, entry.name).get("versions", {}).get(entry.version, {})
        url = facts.get("dist", {}).get("tarball", "")
        if url and url not in usual:
            yield url


def packument(downloader: Downloader, registry: str, name: str) -> Mapping[str, Any]:
    """What a registry says of a package, in the short form; empty if it does not know it."""
    try:
        document = downloader.read(f"{registry}/{quote(name, safe='@')}", accept=ACCEPT)
        parsed = json.loads(document.data)
    except NotFoundError:
        return {}
    except ValueError as error:
        raise TransportError(
            f"{shown(registry)} does not answer as an npm registry does. Check --npm-registry."
        ) from error
    return parsed if isinstance(parsed, dict) else {}


def newest(versions: Mapping[str, Any], prefix: str) -> str | None:
    """The highest release (no pre-release) that is ``prefix`` or begins with it and a dot: ``4``, ``4.1``."""
    numbers = [
        tuple(map(int, version.split(".")))
        for version in versions
        if re.fullmatch(r"\d+\.\d+\.\d+", version) and f"{version}.".startswith(f"{prefix}.")
    ]
    return ".".join(map(str, max(numbers))) if numbers else None


def _packages(data: bytes, what: str) -> Mapping[str, Any]:
    """The ``packages`` of a shrinkwrap: facts by place, the root's at ``""``."""
    try:
        packages = json.loads(data)["packages"]
        return {str(place): dict(facts) for place, facts in packages.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{what} is no shrinkwrap of version 2 or 3. Lock another version.") from error


def closure(
    packages: Mapping[str, Any], arch: str, without: Sequence[str] = (), unmet: set[str] | None = None
) -> Iterator[tuple[str, Release]]:
    """Places and releases that the root's dependencies lead to on Linux with glibc.

    ``without`` are names or globs that are cut; those that cut something are removed from ``unmet``.
    """
    seen: set[str] = set()
    queue = [""]
    for place in queue:  # grows while it is read
        facts = packages[place]
        optional = facts.get("optionalDependencies", {})
        for name in [*facts.get("dependencies", {}), *optional]:
            if cut := [glob for glob in without if fnmatchcase(name, glob)]:
                if unmet is not None:
                    unmet.difference_update(cut)
                continue
            found = _resolved(packages, place, name)
            if found is None or not _fits(packages[found], arch):
                if name not in optional:
                    raise FormatError(f"A shrinkwrap has no {name} for {place or 'its root'} on {arch}.")
            elif found not in seen:
                seen.add(found)
                queue.append(found)
    for place in sorted(seen):
        facts = packages[place]
        name = str(facts.get("name") or place.rpartition("node_modules/")[2])
        if "integrity" not in facts or facts.get("link"):
            raise FormatError(f"A shrinkwrap takes {name} from elsewhere than a registry. Cut it.")
        yield place, Release(name, str(facts["version"]), strongest(str(facts["integrity"])))


def _resolved(packages: Mapping[str, Any], place: str, name: str) -> str | None:
    """Where Node finds ``name`` from ``place``: in the nearest ``node_modules`` upwards."""
    while True:
        candidate = f"{place}/node_modules/{name}".lstrip("/")
        if candidate in packages:
            return candidate
        if not place:
            return None
        place = place.rpartition("node_modules/")[0].rstrip("/")


def _fits(facts: Mapping[str, Any], arch: str) -> bool:
    wanted = {"os": "linux", "cpu": rules.CPUS[arch], "libc": "glibc"}
    return all(value in facts[key] for key, value in wanted.items() if facts.get(key))

"""Opens Debian suites: signed Release, then Packages by its hash, as one catalog per architecture."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle import debian, release
from graftbox.bundle.download import Downloader
from graftbox.bundle.fetch import fetch
from graftbox.bundle.lock import LockedPackage
from graftbox.bundle.progress import Progress
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sources import Sources
from graftbox.errors import GraftboxError, NotFoundError, TransportError
from graftbox.store import Store


@dataclass(frozen=True)
class Suite:
    """A suite whose Release file has been verified."""

    name: str
    archive: str
    release: release.Release


def archive_of(suite: str) -> str:
    """Which archive a suite lives in: ``debian`` or ``debian-security``."""
    return "debian-security" if suite.endswith(("-security", "/updates")) else "debian"


def open_suite(
    name: str, keyring: Path, sources: Sources, downloader: Downloader, allow_expired: bool = False
) -> Suite:
    """The suite from the first mirror that gives a good Release file; else the last mirror's error."""
    archive = archive_of(name)
    failure: GraftboxError | None = None
    for mirror in sources.mirrors(archive):
        where = f"{mirror}/dists/{name}/InRelease"
        try:
            document = downloader.read(where, limit=8 << 20)
            parsed = release.parse(release.verified(document.data, keyring, where), where)
            release.check(parsed, name, where, datetime.datetime.now(datetime.UTC), allow_expired)
        except NotFoundError as error:
            failure = NotFoundError(
                f"{str(error).rstrip('.')}. Check the mirror's address, and that it has the suite {name}."
            )
            failure.__cause__ = error
            continue
        except GraftboxError as error:
            failure = error
            continue
        return Suite(name, archive, parsed)
    assert failure is not None
    raise failure


def open_suites(
    recipe: Recipe, sources: Sources, downloader: Downloader, keyring: Path | None, allow_expired: bool
) -> list[Suite]:
    """All suites of a recipe, in its order."""
    return [
        open_suite(name, keyring or recipe.keyring, sources, downloader, allow_expired)
        for name in recipe.suites
    ]


def catalog(
    suites: Sequence[Suite],
    sections: Sequence[str],
    arch: str,
    store: Store,
    sources: Sources,
    progress: Progress,
) -> debian.Catalog:
    """Every package of these suites for one architecture; Packages files are cached by hash."""
    files = [_packages_file(suite, section, arch) for suite in suites for section in sections]
    try:
        paths = fetch([file for file, _ in files], store, sources, progress)
    except NotFoundError as error:
        raise TransportError(
            "The mirror lacks a Packages file that its own Release names: it is being updated just now. "
            "Try again in some minutes, or use another mirror."
        ) from error
    return debian.Catalog(
        debian.PackageIndex(debian.decompressed(paths[file].read_bytes(), name), file.archive, file.date)
        for file, name in files
    )


def _packages_file(suite: Suite, section: str, arch: str) -> tuple[LockedPackage, str]:
    """The file as something to fetch, by its hash where the suite allows that, and its own name."""
    path, sha256, size = suite.release.packages_file(section, arch)
    address = f"{path.rpartition('/')[0]}/by-hash/SHA256/{sha256}" if suite.release.by_hash else path
    entry = LockedPackage(
        name=f"{suite.name}/{path}",
        version="",
        archive=suite.archive,
        path=f"dists/{suite.name}/{address}",
        size=size,
        sha256=sha256,
        source="",
        date=suite.release.timestamp,
        components=(),
    )
    return entry, path

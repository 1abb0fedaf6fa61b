"""A suite's InRelease file: its signature, its age, and the hashes of its Packages files."""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftbox.bundle.debian import parse_stanza
from graftbox.errors import FormatError, NotFoundError, VerificationError

COMPRESSIONS = (".xz", ".gz", "")


@dataclass(frozen=True)
class Release:
    """What the signed text says. ``files`` maps a path below the suite to (sha256 hex, size)."""

    suite: str
    codename: str
    date: datetime.datetime
    valid_until: datetime.datetime | None
    by_hash: bool
    files: Mapping[str, tuple[str, int]]

    @property
    def timestamp(self) -> str:
        """The date as locks write it: ``2026-11-21T02:10:46Z``."""
        return self.date.strftime("%Y-%m-%dT%H:%M:%SZ")

    def packages_file(self, section: str, arch: str) -> tuple[str, str, int]:
        """Path, sha256 and size of the smallest Packages file of that section and architecture."""
        for suffix in COMPRESSIONS:
            path = f"{section}/binary-{arch}/Packages{suffix}"
            if path in self.files:
                return path, *self.files[path]
        raise NotFoundError(f"The suite {self.codename} has no packages of section {section} for {arch}.")


def verified(data: bytes, keyring: Path, where: str) -> bytes:
    """The text of an InRelease file that a key of ``keyring`` has signed, and nothing around it."""
    from pysequoia import Cert, verify

    try:
        certificates = Cert.split_file(str(keyring))
    except (OSError, RuntimeError) as error:
        raise NotFoundError(
            f"Cannot read keys from {keyring}: {_sentence(error)}. Name a file of OpenPGP certificates "
            "with --keyring, or in the recipe."
        ) from error
    try:
        result = verify(data, store=lambda _: certificates)
    except (RuntimeError, ValueError) as error:
        raise VerificationError(
            f"The signature of {where} does not verify with the keys in {keyring}: {_sentence(error)}. Use "
            "another mirror, or --keyring if this archive is signed by another key."
        ) from error
    if not result.valid_sigs or result.bytes is None:
        raise VerificationError(f"{where} has no valid signature by a key in {keyring}. Use another mirror.")
    return bytes(result.bytes)


def _sentence(error: Exception) -> str:
    """The first line of a library's message, without the backtrace that follows."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__


def parse(text: bytes, where: str) -> Release:
    """A `Release` from the signed text."""
    try:
        fields = parse_stanza(text.decode())
        files: dict[str, tuple[str, int]] = {}
        for line in fields["SHA256"].split("\n"):
            if words := line.split():
                sha256, size, path = words
                files[path] = (sha256, int(size))
        until = fields.get("Valid-Until")
        return Release(
            suite=fields.get("Suite", ""),
            codename=fields.get("Codename", ""),
            date=_date(fields["Date"]),
            valid_until=_date(until) if until else None,
            by_hash=fields.get("Acquire-By-Hash") == "yes",
            files=files,
        )
    except (KeyError, ValueError) as error:
        raise FormatError(f"{where} is not a Release file: {error}.") from error


def _date(text: str) -> datetime.datetime:
    date = email.utils.parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)


def check(release: Release, suite: str, where: str, now: datetime.datetime, allow_expired: bool) -> None:
    """`VerificationError` unless this is the asked suite, and (unless allowed) still valid."""
    if suite not in {release.suite, release.codename}:
        raise VerificationError(
            f"{where} is signed as suite {release.suite} ({release.codename}), not {suite}: the mirror is "
            "misconfigured or somebody is replaying another suite. Use another mirror."
        )
    if release.valid_until is not None and release.valid_until < now and not allow_expired:
        raise VerificationError(
            f"{where} was valid until {release.valid_until:%Y-%m-%d %H:%M} UTC: the mirror is stale, or this "
            "machine's clock is wrong. Use another mirror, or accept it with --allow-expired."
        )

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from pysequoia import SignatureMode, sign

from graftbox.bundle import release
from graftbox.errors import FormatError, NotFoundError, VerificationError

TEXT = b"""Suite: stable
Codename: trixie
Date: Sat, 21 Nov 2026 02:10:46 UTC
Valid-Until: Sat, 28 Nov 2026 02:10:46 UTC
Acquire-By-Hash: yes
SHA256:
 aaaa 5 main/binary-amd64/Packages
 bbbb 3 main/binary-amd64/Packages.xz
"""
BEFORE = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
AFTER = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)


@pytest.fixture
def keyring(tmp_path: Path, signing_key: Any, other_key: Any) -> Path:
    """Two keys in one file, as Debian ships them."""
    path = tmp_path / "keys.gpg"
    certificates = other_key.extract_certificate(), signing_key.extract_certificate()
    path.write_bytes(b"".join(map(bytes, certificates)))
    return path


def signed(key: Any) -> bytes:
    return bytes(sign(key.signer(), TEXT, mode=SignatureMode.CLEAR))


def test_a_signed_release_gives_its_text_only(keyring: Path, signing_key: Any) -> None:
    data = b"Suite: evil\n\n" + signed(signing_key) + b"\nSuite: evil\n"
    try:
        text = release.verified(data, keyring, "here")
    except VerificationError:
        return  # refusing text around the signature is fine as well
    assert text == TEXT


def test_a_changed_release_does_not_verify(keyring: Path, signing_key: Any) -> None:
    with pytest.raises(VerificationError) as caught:
        release.verified(signed(signing_key).replace(b"bbbb", b"cccc"), keyring, "http://m/InRelease")
    assert "http://m/InRelease" in str(caught.value)
    assert "--keyring" in str(caught.value)
    assert "backtrace" not in str(caught.value)


def test_a_release_signed_by_a_stranger_does_not_verify(tmp_path: Path, archive: Any, other_key: Any) -> None:
    with pytest.raises(VerificationError, match="does not verify"):
        release.verified(signed(other_key), archive.keyring, "here")


@pytest.mark.parametrize("data", [b"", TEXT, b"<html>login please</html>"])
def test_an_unsigned_release_does_not_verify(data: bytes, keyring: Path) -> None:
    with pytest.raises(VerificationError):
        release.verified(data, keyring, "here")


def test_a_keyring_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.gpg"):
        release.verified(TEXT, tmp_path / "none.gpg", "here")


def test_the_smallest_packages_file_is_chosen() -> None:
    parsed = release.parse(TEXT, "here")
    assert parsed.packages_file("main", "amd64") == ("main/binary-amd64/Packages.xz", "bbbb", 3)
    assert (parsed.timestamp, parsed.by_hash) == ("2026-11-21T02:10:46Z", True)
    with pytest.raises(NotFoundError, match="for s390x"):
        parsed.packages_file("main", "s390x")


def test_a_release_past_its_date_names_the_option_to_accept_it() -> None:
    parsed = release.parse(TEXT, "here")
    release.check(parsed, "trixie", "here", BEFORE, allow_expired=False)
    release.check(parsed, "stable", "here", BEFORE, allow_expired=False)
    release.check(parsed, "trixie", "here", AFTER, allow_expired=True)
    with pytest.raises(VerificationError, match="--allow-expired"):
        release.check(parsed, "trixie", "here", AFTER, allow_expired=False)


def test_another_suite_under_this_name_is_refused() -> None:
    with pytest.raises(VerificationError, match="not bookworm"):
        release.check(release.parse(TEXT, "here"), "bookworm", "here", BEFORE, allow_expired=True)


@pytest.mark.parametrize("drop", [b"SHA256:", b"Date:"])
def test_a_release_without_dates_or_hashes_is_malformed(drop: bytes) -> None:
    with pytest.raises(FormatError, match="not a Release file"):
        release.parse(TEXT.replace(drop, b"X-" + drop), "here")

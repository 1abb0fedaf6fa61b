"""Programs of others that judge what graftbox makes: Debian's next release has crane, oras, cosign, notation.

They are unpacked below ``build/judges`` and never installed; the machine's own sources stay as they are.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from graftbox.bundle import apt, recipe

SUITE = "forky"
NAMES = ("crane", "oras", "cosign", "notation")
PLACE = Path(__file__).parents[2] / "build" / "judges"
KEYRING = Path(recipe.__file__).parent / "recipes" / "debian-archive-keyring.gpg"


class UnobtainableError(Exception):
    """Debian's mirror cannot be reached, or has no such package; says so."""


def judge(name: str) -> str:
    """The path of that program; the test is skipped where it cannot be had.

    That is a skip in a strict run too: what a mirror offers is not ours. A program that does not start
    after it was fetched is a failure.
    """
    path = found(name)
    if isinstance(path, UnobtainableError):
        pytest.skip(f"{name} cannot be fetched from Debian {SUITE}: {path}")
    return str(path)


@functools.cache
def found(name: str) -> Path | UnobtainableError:
    """The machine's own program of that name, else Debian's, which is fetched once; or why not."""
    if own := shutil.which(name):
        return Path(own)
    path = PLACE / "usr" / "bin" / name
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            try:
                _fetch(name)
            except UnobtainableError as error:
                return error
    subprocess.run([path, "--help"], check=True, capture_output=True, timeout=60)
    return path


def _fetch(name: str) -> None:
    """Downloads the package with apt, which checks its signatures, and unpacks it."""
    mirrors = apt.mirrors(apt.entries(), security=False)
    if not mirrors or not shutil.which("apt-get"):
        raise UnobtainableError("this machine's apt names no mirror of Debian")
    state = PLACE / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text(
        "".join(f"deb [signed-by={KEYRING}] {address} {SUITE} main\n" for address in mirrors)
    )
    (state / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{state}/sources.list"; Dir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State "{state}"; Dir::State::Lists "{state}/lists"; Dir::State::Status "{state}/status";\n'
        f'Dir::Cache "{state}/cache"; APT::Sandbox::User ""; APT::Update::Error-Mode "any";\n'
        'Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; Acquire::http::Timeout "30";\n'
    )
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        _download(name, folder, state / "apt.conf")
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, f"{folder}/tree"], check=True, capture_output=True)
        (PLACE / "usr" / "bin").mkdir(parents=True, exist_ok=True)
        Path(folder, "tree/usr/bin", name).rename(PLACE / "usr" / "bin" / name)


def _download(name: str, folder: str, configuration: Path) -> None:
    """Three tries: mirrors have bad moments, and one that is being updated is at odds with itself."""
    reason = ""
    for delay in (0, 2, 5):
        time.sleep(delay)
        try:
            for command in (["update"], ["download", name]):
                subprocess.run(
                    ["apt-get", "-q", *command],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    cwd=folder,
                    env={**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"},
                )
            return
        except subprocess.TimeoutExpired as error:
            reason = str(error)
        except subprocess.CalledProcessError as error:
            reason = " ".join(error.stderr.split())[-500:]
    raise UnobtainableError(reason)


if __name__ == "__main__":
    for wanted in NAMES:
        print(found(wanted))

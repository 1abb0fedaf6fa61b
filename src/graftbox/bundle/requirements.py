"""Resolves requirements to wheels for the guest's Python, by pip; only file names and hashes are kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftbox.bundle import index
from graftbox.bundle.download import Downloader, shown
from graftbox.bundle.lock import LockedWheel
from graftbox.bundle.pypi import Indexes
from graftbox.errors import NotFoundError, TransportError, UsageError, VerificationError

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# manylinux tags that the bundle's glibc satisfies, best first (PEP 600).
GLIBC_MINOR = 41
OLD_TAGS = {"amd64": ("manylinux2014", "manylinux2010", "manylinux1"), "arm64": ("manylinux2014",)}


@dataclass(frozen=True)
class Guest:
    """The interpreter that wheels are chosen for: ``python`` is ``3.13.5``, ``arch`` as Debian's."""

    python: str
    arch: str

    @property
    def minor(self) -> str:
        return ".".join(self.python.split(".")[:2])

    @property
    def markers(self) -> dict[str, str]:
        """The guest's values of the environment markers (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.python,
            "os_name": "posix",
            "platform_machine": MACHINES[self.arch],
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.python,
            "python_version": self.minor,
            "sys_platform": "linux",
        }

    @property
    def options(self) -> list[str]:
        """pip's options that choose files for this interpreter."""
        machine = MACHINES[self.arch]
        tags = [f"manylinux_2_{minor}" for minor in range(GLIBC_MINOR, 16, -1)]
        platforms = [f"--platform={tag}_{machine}" for tag in (*tags, *OLD_TAGS[self.arch])]
        abi = f"--abi=cp{self.minor.replace('.', '')}"
        return [f"--python-version={self.minor}", "--implementation=cp", abi, *platforms]


@dataclass(frozen=True)
class Wanted:
    """What a component asks for: requirement specifiers, and the projects that are cut from their closure."""

    requirements: Sequence[str]
    without: Sequence[str] = ()


def resolve(
    components: Mapping[str, Wanted],
    guest: Guest,
    indexes: Indexes,
    downloader: Downloader,
    keep: Mapping[str, str] | None = None,
) -> tuple[LockedWheel, ...]:
    """Wheels of every component's requirements with all they depend on, for one architecture.

    ``keep`` maps projects to the versions they must stay at. The components share one environment, so
    they are solved together; what is cut takes part in that, but is not locked.
    """
    together = sorted({wheel for wanted in components.values() for wheel in wanted.requirements})
    if not together:
        return ()
    constraints = [f"{name}=={version}" for name, version in (keep or {}).items()]
    try:
        solved = _pip(together, constraints, guest, indexes)
    except NotFoundError:
        if not constraints:
            raise
        solved = _pip(together, [], guest, indexes)  # what must stay does not go with what must change
    members: dict[str, list[str]] = {}
    for component, wanted in components.items():
        for name in _closure(component, wanted, solved, guest):
            members.setdefault(name, []).append(component)
    return tuple(
        _locked(name, solved[name], tuple(sorted(members[name])), indexes, downloader)
        for name in sorted(members)
    )


def _closure(component: str, wanted: Wanted, solved: Mapping[str, Solved], guest: Guest) -> set[str]:
    """The projects of ``solved`` that a component's requirements lead to, but for those that are cut."""
    from pip._vendor.packaging.requirements import Requirement

    cut = set(map(index.normalized, wanted.without))
    unmet = set(cut)
    found: dict[str, set[str]] = {}  # project: the extras that its dependencies were followed for
    queue = [Requirement(text) for text in wanted.requirements]
    for requirement in queue:  # grows while it is read
        name = index.normalized(requirement.name)
        unmet.discard(name)
        new = {"", *requirement.extras} - found.get(name, set())
        if name in cut or not new:
            continue
        found.setdefault(name, set()).update(new)
        for needed in map(Requirement, solved[name].requires):
            marker = needed.marker
            if marker is None or any(marker.evaluate({**guest.markers, "extra": extra}) for extra in new):
                queue.append(needed)
    if unmet:
        raise UsageError(f"The recipe cuts {min(unmet)!r}, which no wheel of {component} needs.")
    return set(found)


def _pip(
    requirements: Sequence[str], constraints: Sequence[str], guest: Guest, indexes: Indexes
) -> dict[str, Solved]:
    """Each project as pip would install it on the guest."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "constraints.txt"
        pins.write_text("".join(f"{line}\n" for line in constraints))
        command = [sys.executable, "-P", "-m", "graftbox.bundle.guest_pip", json.dumps(guest.markers)]
        command += ["install", "--dry-run", "--ignore-installed", "--report=-", "--quiet"]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
        command += [f"--target={folder}/target", f"--constraint={pins}", *guest.options]
        command += _index_options(indexes)
        done = subprocess.run(
            [*command, "--", *requirements], capture_output=True, text=True, env=_environment(), check=False
        )
    if done.returncode:
        _raise(done.stderr, requirements, guest)
    return {
        index.normalized(item["metadata"]["name"]): _solved(item)
        for item in json.loads(done.stdout)["install"]
    }


@dataclass(frozen=True)
class Solved:
    """A wheel that pip chose; ``sha256`` is empty where its index says none, ``requires`` as in METADATA."""

    version: str
    filename: str
    sha256: str
    url: str
    requires: tuple[str, ...]


def _solved(item: Mapping[str, Any]) -> Solved:
    url = item["download_info"]["url"]
    archive = item["download_info"].get("archive_info", {})
    sha256 = archive.get("hashes", {}).get("sha256") or archive.get("hash", "").removeprefix("sha256=")
    filename = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    metadata = item["metadata"]
    return Solved(metadata["version"], filename, sha256, url, tuple(metadata.get("requires_dist", ())))


def _index_options(indexes: Indexes) -> list[str]:
    options = [f"--find-links={place}" for place in indexes.find_links]
    options += [f"--index-url={indexes.urls[0]}"] if indexes.urls else ["--no-index"]
    options += [f"--extra-index-url={url}" for url in indexes.urls[1:]]
    return options + ([f"--cert={indexes.cert}"] if indexes.cert else [])


def _environment() -> dict[str, str]:
    """This process's, without the settings that `Indexes` already says; pip reads no file of its own."""
    kept = {
        "PIP_CERT",
        "PIP_PROXY",
        "PIP_DEFAULT_TIMEOUT",
        "PIP_RETRIES",
        "PIP_TRUSTED_HOST",
        "PIP_CLIENT_CERT",
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_") or k in kept}
    return {**environment, "PIP_CONFIG_FILE": os.devnull}


def _raise(stderr: str, requirements: Sequence[str], guest: Guest) -> None:
    errors = re.findall(r"(?m)^ERROR: (.*)$", stderr) or stderr.strip().splitlines()[-1:] or ["no message"]
    message = (
        f"pip cannot choose wheels for Python {guest.minor} on {guest.arch} of {', '.join(requirements)}"
    )
    kind = TransportError if re.search(r"connection|timed out|Max retries", stderr, re.I) else NotFoundError
    raise kind(f"{message}: {errors[-1].rstrip('.')}. Change the recipe, or the index (--index-url).")


def _locked(
    name: str, wheel: Solved, components: tuple[str, ...], indexes: Indexes, downloader: Downloader
) -> LockedWheel:
    """Adds the size, from the index where it says so, else from the file itself."""
    sha256 = wheel.sha256
    size = None
    if sha256:
        offers = index.locate(downloader, indexes, name, wheel.filename, sha256)
        size = next((offer.size for offer in offers if offer.size and offer.sha256 == sha256), None)
    if size is None:
        data = downloader.read(wheel.url, limit=1 << 32).data
        size = len(data)
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise VerificationError(f"{shown(wheel.url)} is not what the index says: its sha256 differs.")
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
    return LockedWheel(name, wheel.version, wheel.filename, size, sha256, components)

"""What will and won't work on an image, and why, without running anything of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from graftbox.errors import UnsupportedError
from graftbox.image import contents as files
from graftbox.image.blob import Source
from graftbox.image.contents import Contents
from graftbox.image.graft import BASE_NAME, BUNDLE, SERVER, Image, scratch
from graftbox.image.manifest import Document, parse_object
from graftbox.image.platforms import Platform, image_of, machine_architecture, platforms, select
from graftbox.image.reference import Reference, Transport
from graftbox.image.transports import Access, open_source
from graftbox.image.unpack import ImageConfig, cached, diff_ids
from graftbox.store import Store

HAZARDS = (
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "GLIBC_TUNABLES",
    "PYTHONHOME",
    "PYTHONPATH",
    "LOCPATH",
    "GCONV_PATH",
    "GIT_EXEC_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TERMINFO",
    "BASH_ENV",
    "ENV",
    "NODE_OPTIONS",
)


class Level(Enum):
    """How much a finding matters."""

    GOOD = "good"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One fact about the image and what follows from it."""

    topic: str
    level: Level
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """All that is known; ``usable`` unless a finding is a problem. ``bytes_read`` counts layers only."""

    image: str
    digest: str
    platforms: tuple[str, ...]
    findings: tuple[Finding, ...]
    bytes_read: int

    @property
    def usable(self) -> bool:
        return all(finding.level is not Level.PROBLEM for finding in self.findings)


def diagnose(
    reference: Reference,
    store: Store,
    *,
    arch: str | None = None,
    quick: bool = False,
    access: Access | None = None,
) -> Diagnosis:
    """Examines an image for this machine's architecture, or ``arch``.

    Layers are streamed once, unless the unpacked image is in the cache; with ``quick`` none is read.
    """
    arch = arch or machine_architecture()
    if reference.transport is Transport.SCRATCH:
        image = scratch(arch)
        return _diagnosis("scratch", image, (f"linux/{arch}",), arch, Contents())
    with contextlib.closing(open_source(reference, store, access, whole=False)) as source:
        top = source.resolve()
        offered = _offered(top)
        try:
            image = select(source, arch, reference.portable) if top.is_index else image_of(source, top)
        except UnsupportedError as error:
            problem = Finding("platform", Level.PROBLEM, str(error))
            return Diagnosis(str(reference), top.digest, offered, (problem,), 0)
        config = parse_object(image.config, "The image's config")
        offered = offered or (str(Platform.read(config)),)
        found = None
        if quick or Platform.read(config).os not in {"linux", ""}:
            return _diagnosis(str(reference), image, offered, arch, None)
        if folder := cached(image, store):
            found = files.of_folder(folder)
        elif reference.transport is not Transport.DOCKER_DAEMON:
            found = _read(source, image)
    if found is None:
        with contextlib.closing(open_source(reference, store, access)) as source:
            found = _read(source, select(source, arch, reference.portable))
    return _diagnosis(str(reference), image, offered, arch, found)


def _read(source: Source, image: Image) -> Contents:
    layers = zip(image.manifest.layers, diff_ids(image), strict=True)
    return files.of_layers([source.blob(layer, diff_id) for layer, diff_id in layers])


def _offered(top: Document) -> tuple[str, ...]:
    return tuple(str(platform) for platform, _ in platforms(top)) if top.is_index else ()


def _diagnosis(
    name: str, image: Image, offered: Sequence[str], arch: str, contents: Contents | None
) -> Diagnosis:
    config = parse_object(image.config, "The image's config")
    facts = ImageConfig.read(image.config)
    findings = [_platform(Platform.read(config), arch), _program(facts), _user(facts, contents)]
    findings += _environment(facts)
    if BUNDLE in (labels := facts.raw.get("Labels") or {}):
        base = labels.get(BASE_NAME, "an unnamed base")
        text = f"already grafted, from {base}; grafting it again replaces the bundle"
        findings.append(Finding("bundle", Level.NOTE, text))
    findings += _files(image, contents)
    read = contents.bytes_read if contents else 0
    return Diagnosis(name, image.manifest.digest, tuple(offered), tuple(findings), read)


def _platform(platform: Platform, arch: str) -> Finding:
    if platform.os not in {"linux", ""}:
        return Finding("platform", Level.PROBLEM, f"{platform}: graftbox works on Linux images only")
    if platform.arch != arch:
        text = f"{platform}, and the bundle asked for is linux/{arch}; choose with --platform {platform}"
        return Finding("platform", Level.PROBLEM, text)
    return Finding("platform", Level.GOOD, str(platform))


def _program(facts: ImageConfig) -> Finding:
    words = " ".join((*facts.entrypoint, *facts.cmd))
    if facts.entrypoint[: len(SERVER)] == SERVER:
        return Finding("entrypoint", Level.GOOD, "the server is started")
    if not words:
        return Finding("entrypoint", Level.GOOD, "none; the server is started")
    text = f"{words!r} is recorded; the server is started instead (--keep-entrypoint runs both)"
    return Finding("entrypoint", Level.GOOD, text)


def _user(facts: ImageConfig, contents: Contents | None) -> Finding:
    user = facts.user.partition(":")[0]
    if user in {"", "0", "root"}:
        return Finding("user", Level.GOOD, "root")
    if user.isdigit():
        return Finding("user", Level.GOOD, f"{facts.user}; a number needs no passwd entry")
    passwd = contents.small.get("etc/passwd", b"") if contents else None
    if passwd is None:
        return Finding("user", Level.NOTE, f"{facts.user}; must have an entry in /etc/passwd (not read)")
    if any(line.startswith(user.encode() + b":") for line in passwd.splitlines()):
        return Finding("user", Level.GOOD, f"{facts.user}, found in /etc/passwd")
    text = f"{facts.user} is not in the image's /etc/passwd, so engines refuse it; use --user with a number"
    return Finding("user", Level.PROBLEM, text)


def _environment(facts: ImageConfig) -> list[Finding]:
    names = [name for name in (item.partition("=")[0] for item in facts.env) if name in HAZARDS]
    if not names:
        return []
    text = f"sets {', '.join(names)}: harmless to graftbox; the user's processes see them unchanged"
    return [Finding("environment", Level.GOOD, text)]


def _files(image: Image, contents: Contents | None) -> list[Finding]:
    layers = image.manifest.layers
    size = sum(layer.size for layer in layers)
    if contents is None:
        text = f"{len(layers)} layers, {size / 1e6:.1f} MB stored; not read, so nothing on libc and shell"
        return [Finding("layers", Level.NOTE, text)]
    text = f"{len(layers)} layers, {contents.size / 1e6:.1f} MB of files"
    findings = [Finding("layers", Level.GOOD, text)]
    release = contents.small.get("etc/os-release") or contents.small.get("usr/lib/os-release") or b""
    if pretty := re.search(rb'^PRETTY_NAME="?([^"\n]+)', release, re.MULTILINE):
        findings.append(Finding("system", Level.GOOD, pretty[1].decode(errors="replace")))
    findings.append(_libc(contents))
    shell = contents.first(files.SHELLS)
    text = shell or "none; sessions use the bundled bash"
    findings.append(Finding("shell", Level.GOOD, text))
    store = contents.first(files.CA_STORES)
    text = store or "none; the bundle's own programs bring one, the image's programs have none"
    findings.append(Finding("certificates", Level.GOOD if store else Level.NOTE, text))
    managers = [name for name, paths in files.PACKAGE_MANAGERS.items() if contents.first(paths)]
    text = ", ".join(managers) or "none; nothing is installed into the image anyway"
    findings.append(Finding("packages", Level.GOOD, text))
    if contents.find("openhands") and BUNDLE not in (ImageConfig.read(image.config).raw.get("Labels") or {}):
        text = (
            "the image has one of its own; a mount hides its files, a graft leaves them beside the bundle's"
        )
        findings.append(Finding("/openhands", Level.NOTE, text))
    return findings


def _libc(contents: Contents) -> Finding:
    libc = contents.libc()
    if libc is None:
        return Finding("libc", Level.GOOD, "none (static programs or empty); the bundle brings its own")
    name = " ".join(part for part in libc if part)
    return Finding("libc", Level.GOOD, f"{name}, for the image's own programs; the bundle brings its own")

"""What this machine's apt already knows: Debian mirrors and snapshot archives. Reads files, runs nothing.

Formats: sources.list(5), one-line and deb822; apt.conf(5) only for ``Acquire::Snapshots``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUITE = re.compile(r"(bullseye|bookworm|trixie|forky|duke|sid|(old){0,2}stable|testing|unstable)([-/].*)?")
KEYRING = "debian-archive-"


@dataclass(frozen=True)
class AptEntry:
    """One enabled repository line: an address and a suite, with what tells whose it is."""

    uri: str
    suite: str
    sections: tuple[str, ...] = ()
    signed_by: str = ""

    @property
    def is_debian(self) -> bool:
        """Whether this looks like Debian's own archive and not a third party's or a derivative's."""
        return "main" in self.sections and (bool(SUITE.fullmatch(self.suite)) or KEYRING in self.signed_by)

    @property
    def is_security(self) -> bool:
        return self.suite.endswith(("-security", "/updates"))


def entries(root: Path = Path("/etc/apt")) -> list[AptEntry]:
    """Every enabled binary repository below ``root``, in apt's own order; unreadable files are skipped."""
    found: list[AptEntry] = []
    parts = root / "sources.list.d"
    files = [root / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            found += parse_list(text)
        elif path.suffix == ".sources":
            found += parse_deb822(text)
    return found


def mirrors(found: Iterable[AptEntry], security: bool) -> tuple[str, ...]:
    """Addresses of Debian's main or security archive among ``found``, each once, in order."""
    uris = (uri for e in found if e.is_debian and e.is_security == security for uri in _expand(e.uri))
    return tuple(dict.fromkeys(uris))


def parse_list(text: str) -> Iterator[AptEntry]:
    """Entries of a one-line-style file: ``deb [ option=value … ] uri suite [section …]``."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>.*)", line.partition("#")[0].strip())
        if not match:
            continue
        words = match["rest"].split()
        if len(words) < 2:
            continue
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        yield AptEntry(words[0], words[1], tuple(words[2:]), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[AptEntry]:
    """Entries of a deb822-style file: stanzas with URIs, Suites, Components, Enabled, Signed-By."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in {" ", "\t"}:
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields.get("enabled", "yes").lower() in {"no", "false", "0", "off", "without", "disable"}:
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        sections = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield AptEntry(uri, suite, sections, fields.get("signed-by", ""))


def snapshots(root: Path = Path("/etc/apt")) -> tuple[str, ...]:
    """``Acquire::Snapshots::URI::…`` templates (with ``@SNAPSHOTID@``) of apt.conf and apt.conf.d."""
    parts = root / "apt.conf.d"
    found: list[str] = []
    for path in [root / "apt.conf", *(sorted(parts.iterdir()) if parts.is_dir() else [])]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        text = re.sub(r"(?m)^\s*(//|#(?!clear|include)).*$", "", text)
        if "snapshots" in text.lower():
            found += re.findall(r'"([^"\s]*@SNAPSHOTID@[^"\s]*)"', text)
    return tuple(dict.fromkeys(found))


def _expand(uri: str) -> Iterator[str]:
    """An address that we can fetch from; ``mirror+file:`` names a file with one address a line."""
    if uri.startswith(("http://", "https://", "file:/")):
        yield uri.replace("file:///", "file:/").replace("file:/", "file:///").rstrip("/")
    elif uri.startswith("mirror+file:"):
        try:
            lines = Path(uri.removeprefix("mirror+file:")).read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if words := line.partition("#")[0].split():
                yield from _expand(words[0])

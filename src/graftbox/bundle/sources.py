"""Where packages are fetched from: asked of the user and the machine, never known by the project.

For each setting the first of these that says something counts:

    =================  ========================  =========================  ============================
    option             variable                  config file, [sources]     the machine's own
    =================  ========================  =========================  ============================
    --debian-mirror    GRAFTBOX_DEBIAN_MIRROR    debian-mirror              apt's sources
    --security-mirror  GRAFTBOX_SECURITY_MIRROR  security-mirror            apt's ``…-security`` sources
    --snapshot         GRAFTBOX_SNAPSHOT         snapshot                   apt's Acquire::Snapshots
    --index-url        GRAFTBOX_INDEX_URL        index-url                  pip's and uv's configuration
    --npm-registry     GRAFTBOX_NPM_REGISTRY     npm-registry               npm's configuration
    =================  ========================  =========================  ============================

Each may be several addresses, separated by spaces; they are tried in order. ``file:`` addresses work.
The config file is ``$GRAFTBOX_CONFIG``, else ``$XDG_CONFIG_HOME/graftbox/config.toml``.
"""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftbox.bundle import apt, npmrc, pypi
from graftbox.errors import ConfigurationError, UsageError

SETTINGS = ("debian-mirror", "security-mirror", "snapshot", "index-url", "npm-registry")
ARCHIVE_SETTING = {"debian": "debian-mirror", "debian-security": "security-mirror"}
CERT_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Sources:
    """Addresses by setting, as the user gave them; the machine's own are looked up when needed."""

    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    apt_root: Path = Path("/etc/apt")
    archives: Mapping[str, str] = field(default_factory=dict)
    """Of the recipe that is worked on: where its archives are from, by their SHA-256."""

    @classmethod
    def find(cls, environ: Mapping[str, str] | None = None, **options: str | None) -> Sources:
        """Options (``debian_mirror=…``) beat ``GRAFTBOX_*`` variables beat the config file."""
        environ = os.environ if environ is None else environ
        path = config_path(environ)
        written = _config_file(path)
        given: dict[str, tuple[str, ...]] = {}
        for setting in SETTINGS:
            value = (
                options.get(setting.replace("-", "_"))
                or environ.get(_variable(setting))
                or written.get(setting)
            )
            if value:
                given[setting] = tuple(_address(word, setting) for word in value.split())
        return cls(given, environ)

    def mirrors(self, archive: str) -> tuple[str, ...]:
        """Addresses of ``debian`` or ``debian-security``; `ConfigurationError` on a machine without any."""
        if found := self._mirrors(archive):
            return found
        setting = ARCHIVE_SETTING[archive]
        others = [s for a, s in ARCHIVE_SETTING.items() if a != archive and not self._mirrors(a)]
        likewise = "".join(f"; {other} likewise" for other in others)
        raise ConfigurationError(
            f"This machine's apt names no mirror of the {archive} archive. Set --{setting}, "
            f"{_variable(setting)}, or `{setting}` below [sources] in {config_path(self.environ)}{likewise}."
        )

    def _mirrors(self, archive: str) -> tuple[str, ...]:
        given = self.given.get(ARCHIVE_SETTING[archive])
        return given or apt.mirrors(self._apt, security=archive == "debian-security")

    def snapshots(self, archive: str, timestamp: str) -> tuple[str, ...]:
        """Roots of the archive as it was at ``timestamp`` (``20261121T021046Z``); empty without snapshots."""
        roots = []
        for template in self.given.get("snapshot") or apt.snapshots(self.apt_root):
            if "@SNAPSHOTID@" not in template:
                template = f"{template}/{archive}/@SNAPSHOTID@"
            elif "@ARCHIVE@" not in template and ("security" in template) != (archive == "debian-security"):
                continue
            roots.append(
                template.replace("@SNAPSHOTID@", timestamp).replace("@ARCHIVE@", archive).rstrip("/")
            )
        return tuple(roots)

    def indexes(self) -> pypi.Indexes:
        """Python package indexes; `ConfigurationError` on a machine without any."""
        found = self._pypi
        if given := self.given.get("index-url"):
            found = pypi.Indexes(urls=given, cert=found.cert)
        if not found.urls and not found.find_links:
            raise ConfigurationError(
                "Neither pip nor uv names a package index on this machine. Set --index-url, "
                f"GRAFTBOX_INDEX_URL, or `index-url` below [sources] in {config_path(self.environ)}."
            )
        return found

    def registries(self, package: str) -> tuple[str, ...]:
        """npm registries that may have the package; `ConfigurationError` on a machine without any."""
        if given := self.given.get("npm-registry"):
            return given
        if found := self._npm.of(package):
            return (found,)
        raise ConfigurationError(
            "npm names no registry on this machine, or is not there. Set --npm-registry, "
            f"GRAFTBOX_NPM_REGISTRY, or `npm-registry` below [sources] in {config_path(self.environ)}."
        )

    def authorities(self) -> Path | None:
        """A file or folder of extra certificate authorities, or None."""
        for variable in CERT_VARIABLES:
            if value := self.environ.get(variable):
                return Path(value)
        return self._pypi.cert or npmrc.certificates(self.environ)

    @functools.cached_property
    def _apt(self) -> list[apt.AptEntry]:
        return apt.entries(self.apt_root)

    @functools.cached_property
    def _pypi(self) -> pypi.Indexes:
        return pypi.configured(self.environ)

    @functools.cached_property
    def _npm(self) -> npmrc.Registries:
        return npmrc.configured(self.environ)


def config_path(environ: Mapping[str, str]) -> Path:
    """Where the optional configuration file is."""
    if explicit := environ.get("GRAFTBOX_CONFIG"):
        return Path(explicit)
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "graftbox" / "config.toml"


def _address(word: str, setting: str) -> str:
    if not word.startswith(("http://", "https://", "file:/", "/")):
        raise UsageError(
            f"{word!r} is not an address, which {setting} ({_variable(setting)}, --{setting}) must be; write "
            "one that begins with http://, https:// or file://."
        )
    return word.rstrip("/")


def _variable(setting: str) -> str:
    return "GRAFTBOX_" + setting.upper().replace("-", "_")


def _config_file(path: Path) -> dict[str, str]:
    """The ``[sources]`` table; a value may be a string or a list of them. No file is an empty table."""
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"Cannot read the configuration file {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path}: not a TOML file: {error}.") from error
    table = document.get("sources", {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: sources must be a table.")
    values = {}
    for key, value in table.items():
        if key not in SETTINGS:
            raise UsageError(f"{path}: unknown key sources.{key}; known here: {', '.join(SETTINGS)}.")
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UsageError(f"{path}: sources.{key} must be an address or a list of addresses.")
        values[key] = " ".join(words)
    return values

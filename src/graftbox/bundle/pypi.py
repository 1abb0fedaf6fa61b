"""Which Python package indexes this machine uses, from pip's and uv's own configuration."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Indexes:
    """Simple-API addresses in the order to ask them, folders of wheels, and pip's certificate file."""

    urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    cert: Path | None = None


def configured(environ: Mapping[str, str] | None = None) -> Indexes:
    """What pip or uv would use here: an explicit index of either, else pip's own default."""
    environ = os.environ if environ is None else environ
    pip = _pip_settings()
    uv = _uv_settings(environ)
    main = pip.get("index-url") or uv.get("index-url")
    if not main and pip.get("no-index", "").lower() not in {"1", "true", "yes", "on"}:
        main = pip_default()
    extra = f"{pip.get('extra-index-url', '')} {uv.get('extra-index-url', '')}"
    links = f"{pip.get('find-links', '')} {uv.get('find-links', '')}"
    cert = pip.get("cert", "")
    return Indexes(
        urls=_unique([*(main or "").split(), *extra.split()]),
        find_links=_unique(links.split()),
        cert=Path(cert) if cert else None,
    )


def pip_default() -> str:
    """The index that pip itself uses when nobody says otherwise; empty if this pip hides it."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return ""
    return str(getattr(PyPI, "simple_url", ""))


def _pip_settings() -> dict[str, str]:
    """pip's files and ``PIP_*`` variables, merged by pip itself; later kinds win."""
    try:
        from pip._internal.configuration import Configuration

        configuration = Configuration(isolated=False)
        configuration.load()
        items: Iterable[tuple[str, Any]] = list(configuration.items())
    except Exception:  # pip's internals promise nothing; its default index still works without them
        return {}
    flat: dict[str, Any] = {}
    for key, value in items:  # newer versions of pip give one dict per configuration file
        flat.update(value if isinstance(value, dict) else {key: value})
    settings: dict[str, str] = {}
    for section in ("global", "download", "install", ":env:"):
        for key, value in flat.items():
            if key.partition(".")[0] == section:
                settings[key.partition(".")[2]] = str(value)
    return settings


def _uv_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """uv's user and system files, then its variables, under pip's names."""
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    settings: dict[str, str] = {}
    for path in (Path("/etc/uv/uv.toml"), home / "uv" / "uv.toml"):
        try:
            settings |= _uv_file(tomllib.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    for variable, key in (
        ("UV_INDEX_URL", "index-url"),
        ("UV_DEFAULT_INDEX", "index-url"),
        ("UV_EXTRA_INDEX_URL", "extra-index-url"),
        ("UV_INDEX", "extra-index-url"),
        ("UV_FIND_LINKS", "find-links"),
    ):
        if value := environ.get(variable):
            # An index may be written NAME=URL.
            settings[key] = " ".join(_unnamed(word) for word in value.replace(",", " ").split())
    return settings


def _uv_file(document: Mapping[str, Any]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for key in ("index-url", "extra-index-url", "find-links"):
        value = document.get(key, "")
        settings[key] = " ".join(value) if isinstance(value, list) else str(value)
    for index in document.get("index", []):
        if index.get("default"):
            settings["index-url"] = index["url"]
        elif not index.get("explicit"):
            settings["extra-index-url"] += f" {index['url']}"
    return {key: value.strip() for key, value in settings.items() if value.strip()}


def _unnamed(word: str) -> str:
    name, equals, url = word.partition("=")
    return url if equals and "/" not in name else word


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.rstrip("/") or "/" for word in words))

"""Whom to trust: the certificate authorities and client certificates for one registry.

Sources: docker's and containers' ``certs.d`` folders (containers-certs.d(5)), the usual variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def context(host: str, authority: Path | None = None) -> ssl.SSLContext:
    """A verifying context that trusts the system, the usual variables, ``authority`` and certs.d.

    Raises `ConfigurationError` naming the file that holds no certificate.
    """
    made = usual()
    extra = [Path(os.environ[name]) for name in VARIABLES if os.environ.get(name)]
    if authority is not None:
        extra.append(authority)
    for folder in _folders(host):
        extra += sorted(folder.glob("*.crt"))
        for certificate in sorted(folder.glob("*.cert")):
            _load_pair(made, certificate)
    for path in extra:
        try:
            made.load_verify_locations(**{"capath" if path.is_dir() else "cafile": str(path)})
        except OSError as error:
            raise ConfigurationError(f"{path} holds no certificates in PEM form ({error}).") from error
    return made


def usual() -> ssl.SSLContext:
    """Trusts whom the system trusts."""
    import httpcore2

    made = httpcore2.default_ssl_context()
    made.set_alpn_protocols(["http/1.1"])
    return made


def is_configured(host: str) -> bool:
    """Whether certs.d says how to trust this host: then it speaks TLS, even on this machine."""
    return next(_folders(host), None) is not None


def _folders(host: str) -> Iterator[Path]:
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for root in (user / "containers", Path("/etc/containers"), Path("/etc/docker")):
        folder = root / "certs.d" / host
        if folder.is_dir():
            yield folder


def _load_pair(made: ssl.SSLContext, certificate: Path) -> None:
    try:
        # A password that is asked for on the terminal would block: an empty one fails instead.
        made.load_cert_chain(certificate, certificate.with_suffix(".key"), password=lambda: b"")
    except OSError as error:
        raise ConfigurationError(
            f"The client certificate {certificate} or its .key cannot be used ({error})."
        ) from error

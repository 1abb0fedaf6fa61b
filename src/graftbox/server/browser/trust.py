"""The authorities that the base image trusts beyond the usual ones, such as a proxy's that reads TLS."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

from graftbox.server.browser.chromium import Plan
from graftbox.server.environment import BUNDLE, Environment

STORES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Debian, Red Hat, SUSE and Alpine have theirs."""
USUAL = BUNDLE / "etc/ssl/certs/ca-certificates.crt"
"""Those that are trusted without asking: Mozilla's, of which Chromium has its own list."""
_MOST = 8 * 1024 * 1024
_SECONDS = 15.0
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")

log = logging.getLogger("graftbox.browser")


def certificates(path: Path) -> dict[bytes, bytes]:
    """What a PEM file holds, by its content without white space; empty where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST)
    except OSError:
        return {}
    return {b"".join(block.split()): block for block in _BLOCK.findall(data)}


def unusual(environment: Environment) -> list[bytes]:
    """The PEM bodies of the image's own authorities; none where it can't be told which they are. Blocking."""
    known = certificates(USUAL)
    if not known:
        return []
    named = environment.get("SSL_CERT_FILE")
    for store in (*([named] if named else []), *STORES):
        if found := certificates(Path(store)):
            return [block for body, block in found.items() if body not in known]
    return []


def install(plan: Plan, blocks: list[bytes]) -> None:
    """Have Chromium trust these, by a database in its home folder; what goes wrong is logged. Blocking."""
    if not blocks:
        return
    folder = plan.folder / ".pki" / "nssdb"
    pem = b"".join(b"-----BEGIN CERTIFICATE-----%b-----END CERTIFICATE-----\n" % block for block in blocks)
    try:
        done = subprocess.run(
            [sys.executable, "-ISB", str(Path(__file__).with_name("nssdb.py")), str(folder)],
            input=pem,
            capture_output=True,
            timeout=_SECONDS,
            cwd="/",
            env={"HOME": str(plan.folder), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            **plan.identity.popen(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("The browser does not trust the image's own authorities: %s", error)
        return
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        log.warning("The browser does not trust the image's own authorities: %s", said)

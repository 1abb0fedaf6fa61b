"""Base images of plain Debian packages, as an OCI layout: no root, no Docker, nothing run.

They stand in for a user's images where no registry can be reached. The packages are unpacked, not
configured, which is enough for a shell and the usual commands.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftbox.bundle import deb
from graftbox.bundle.content import File, Link
from graftbox.bundle.fetch import fetch
from graftbox.bundle.lock import Lock
from graftbox.bundle.sources import Sources
from graftbox.store import Store

GRAFTBOX = Path(sys.executable).with_name("graftbox")
BUSYBOX = ("sh", "cat", "echo", "env", "grep", "head", "ls", "ps", "sed", "sleep", "uname", "wc")
MUSL_LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "usr/bin/ldd": "../lib/ld-musl-x86_64.so.1",
    **{f"usr/bin/{name}": "busybox" for name in BUSYBOX},
}
"""What makes an image of Debian's musl and busybox packages: they bring no links for busybox's commands."""


def make(folder: Path, arch: str, recipe: str = "base", links: Mapping[str, str] | None = None) -> str:
    """Writes the image for ``arch`` (amd64, arm64) below ``folder`` and returns its reference.

    ``recipe`` is a file beside this one; ``links`` are further links, by their names in the image.
    """
    lock = folder / f"{recipe}.lock.json"
    source = Path(__file__).with_name(f"{recipe}.toml")
    command = [str(GRAFTBOX), "lock", str(source), "--output", str(lock)]
    subprocess.run(command, check=True, capture_output=True)
    packages = Lock.read(lock).architectures[arch].packages
    paths = fetch(packages, Store(), Sources.find())
    layer = _layer([paths[package] for package in packages], links or {})
    layout = folder / recipe
    _write_layout(layout, layer, arch)
    return f"oci:{layout}:latest"


def _layer(packages: list[Path], links: Mapping[str, str]) -> bytes:
    """One tar of all packages' files; base-files brings the folder links, so it comes first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, target in links.items():
            _add_link(archive, name, target)
        for path in sorted(packages, key=lambda path: path.name):
            for name, node in deb.nodes(path, path.name, lambda name: not name.startswith("usr/share/doc")):
                if isinstance(node, File):
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = len(node.data), 0o755 if node.executable else 0o644
                    archive.addfile(member, io.BytesIO(node.data))
                elif isinstance(node, Link):
                    _add_link(archive, name, node.target)
        for name, mode in (("tmp", 0o1777), ("proc", 0o755), ("dev", 0o755), ("root", 0o700)):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, mode
            archive.addfile(member)
    return buffer.getvalue()


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)


def _write_layout(folder: Path, layer: bytes, arch: str) -> None:
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def put_json(document: dict[str, Any], kind: str) -> dict[str, Any]:
        return put(json.dumps(document).encode(), f"application/vnd.oci.image.{kind}.v1+json")

    config = {
        "architecture": arch,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "GREETING=hello from the base image"],
            "Cmd": ["/bin/bash"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put_json(config, "config"),
        "layers": [put(gzip.compress(layer, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    entry = put_json(manifest, "manifest") | {"annotations": {"org.opencontainers.image.ref.name": "latest"}}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

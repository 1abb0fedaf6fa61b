"""The bundle's bill of materials: every locked package with its version, hash and licence (CycloneDX 1.5).

A function of lock and layers: no time, no address, no machine. Licences are read from the copyright files
and wheel metadata that the layers themselves carry.
"""

from __future__ import annotations

import email.parser
import email.policy
import gzip
import json
import re
import tarfile
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from graftbox.bundle.index import normalized
from graftbox.bundle.lock import Entry, Lock, LockedPackage
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.errors import NotFoundError
from graftbox.store import Store, storage_errors

BUNDLE_PROPERTY = "graftbox:bundle"
LICENCES = 1
"""Version of what is read from a layer; part of the name of the record that keeps it."""
LONGEST_LICENCE = 100
LARGEST_FILE = 4 << 20

_COPYRIGHT = re.compile(r"(?:^|/)openhands/share/doc/([^/]+)/copyright$")
_METADATA = re.compile(r"/([^/]+)-[^/-]+\.dist-info/METADATA$")

Licences = dict[str, list[str]]
"""``deb:NAME`` or ``pypi:NAME`` -> what the package says of its licence."""


def sbom(manifest: BundleManifest, lock: Lock, store: Store) -> bytes:
    """The document's bytes; the same bundle always gives the same ones. Needs the built layers."""
    licences: Licences = {}
    for layer in manifest.layers:
        licences |= _licences(layer, store)
    suite = "-".join(sorted(lock.suites)[:1])
    entries = lock.entries(manifest.arch, manifest.components)
    name = f"{manifest.digest} {lock.digest}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, name)}",
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": f"graftbox-bundle@{manifest.digest}",
                "name": "graftbox-bundle",
                "version": manifest.version,
                "properties": _properties(
                    {
                        "graftbox:architecture": manifest.arch,
                        BUNDLE_PROPERTY: manifest.digest,
                        "graftbox:lock": lock.digest,
                        **{f"graftbox:layer:{layer.name}": layer.digest for layer in manifest.layers},
                    }
                ),
            }
        },
        "components": [_component(entry, manifest.arch, suite, licences) for entry in entries],
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _component(entry: Entry, arch: str, suite: str, licences: Licences) -> dict[str, Any]:
    if isinstance(entry, LockedPackage):
        machine = entry.filename.removesuffix(".deb").rpartition("_")[2]
        purl = f"pkg:deb/debian/{quote(entry.name, safe='')}@{quote(entry.version, safe='~')}"
        purl += f"?arch={machine}&distro={suite}"
        key, source = f"deb:{entry.name}", {"graftbox:source": entry.source}
    else:
        purl = f"pkg:pypi/{normalized(entry.name)}@{quote(entry.version, safe='')}"
        key, source = f"pypi:{normalized(entry.name)}", {}
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": entry.name,
        "version": entry.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        "properties": _properties(
            {"graftbox:file": entry.filename, "graftbox:components": ",".join(entry.components), **source}
        ),
    }
    if found := licences.get(key):
        component["licenses"] = [{"license": {"name": licence}} for licence in found]
    return component


def _properties(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": values[name]} for name in sorted(values)]


def _licences(layer: Layer, store: Store) -> Licences:
    """What a layer's files say of licences; read once per layer."""
    record = store.folder("licences") / f"{layer.digest.removeprefix('sha256:')}-{LICENCES}.json"
    try:
        loaded = json.loads(record.read_bytes())
        return {str(key): [str(one) for one in value] for key, value in loaded.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    path = store.blob_path(layer.digest)
    if not path.is_file():
        raise NotFoundError(f"The bundle's layer {layer.name} is gone. Run `graftbox bundle build`.")
    found: Licences = {}
    # Layers consist of several gzip members, which tarfile's own reader of streams stops at.
    with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r|", bufsize=1 << 20) as tar:
        for member in tar:
            if not member.isreg() or member.size > LARGEST_FILE:
                continue
            copyright_, metadata = _COPYRIGHT.search(member.name), _METADATA.search(member.name)
            if not (copyright_ or metadata):
                continue
            stream = tar.extractfile(member)
            text = stream.read().decode(errors="replace") if stream else ""
            if copyright_:
                found[f"deb:{copyright_[1]}"] = _of_copyright(text)
            elif metadata:
                found[f"pypi:{normalized(metadata[1])}"] = of_metadata(text)
    with store.temporary_file() as (stream_, temporary):
        stream_.write(json.dumps(found, sort_keys=True).encode())
        stream_.close()
        with storage_errors(record):
            temporary.replace(record)
    return found


def _of_copyright(text: str) -> list[str]:
    """The short names of a machine-readable copyright file (DEP 5); none of any other."""
    head = text[:400]
    if "copyright-format" not in head and "/dep5" not in head.lower():
        return []
    names = re.findall(r"^License:[ \t]*(\S[^\n]*)$", text, re.MULTILINE)
    return _clean(names)


def of_metadata(text: str) -> list[str]:
    """A wheel's licence: its expression (PEP 639), else its License field, else its classifiers."""
    fields = email.parser.HeaderParser(policy=email.policy.compat32).parsestr(text)
    if expression := fields.get("License-Expression"):
        return _clean([expression])
    written = str(fields.get("License") or "").strip()
    if written and written != "UNKNOWN" and "\n" not in written and len(written) <= LONGEST_LICENCE:
        return _clean([written])
    classifiers = [str(one) for one in fields.get_all("Classifier") or []]
    return _clean([one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: ")])


def _clean(names: Sequence[str]) -> list[str]:
    return sorted({" ".join(name.split())[:LONGEST_LICENCE] for name in names if name.strip()})

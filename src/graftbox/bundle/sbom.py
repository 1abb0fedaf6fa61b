"""The bundle's bill of materials: every locked package with its version, hash and licence (CycloneDX 1.5).

A function of lock and layers: no time, no address, no machine. Licences are read from the copyright files
and package metadata that the layers themselves carry. A Debian package names the source package that it was
built from as its ancestor, so that whoever has to offer the sources knows which.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import posixpath
import re
import tarfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from graftbox.bundle.compression import opened
from graftbox.bundle.index import normalized
from graftbox.bundle.lock import Entry, Lock, LockedArchive, LockedModule, LockedPackage
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.errors import NotFoundError
from graftbox.store import Store, storage_errors

BUNDLE_PROPERTY = "graftbox:bundle"
LICENCES = 2
"""Version of what is read from a layer; part of the name of the record that keeps it."""
LONGEST_LICENCE = 100
LARGEST_FILE = 4 << 20

_COPYRIGHT = re.compile(r"^share/doc/([^/]+)/copyright$")
_METADATA = re.compile(r"/([^/]+)-[^/-]+\.dist-info/METADATA$")
_TEXT = re.compile(r"(licen[cs]e|copying|copyright|notice)[^/]*$", re.IGNORECASE)
"""What files with licences are called in wheels and npm packages."""


@dataclass
class Licence:
    """What a package says of its licence, and the files of the bundle that hold its text."""

    names: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


Licences = dict[str, Licence]
"""By ``deb:NAME``, ``pypi:NAME`` or ``npm:NAME@VERSION``."""


def sbom(manifest: BundleManifest, lock: Lock, store: Store) -> bytes:
    """The document's bytes; the same bundle always gives the same ones. Needs the built layers."""
    licences: Licences = {}
    for layer in manifest.layers:
        for key, licence in _licences(layer, store).items():
            known = licences.setdefault(key, Licence())
            known.names = sorted({*known.names, *licence.names})
            known.files = sorted({*known.files, *licence.files})
    suite = "-".join(sorted(lock.suites)[:1])
    entries = lock.entries(manifest.arch, (*manifest.components, manifest.flavor))
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
        key, facts = f"deb:{entry.name}", {"graftbox:source": entry.source}
    elif isinstance(entry, LockedModule):
        purl = f"pkg:npm/{quote(entry.name)}@{quote(entry.version, safe='')}"
        key, facts = f"npm:{entry.name}@{entry.version}", {"graftbox:integrity": entry.integrity}
    elif isinstance(entry, LockedArchive):
        purl = (
            f"pkg:generic/{quote(entry.name)}@{quote(entry.version, safe='')}?checksum=sha256:{entry.sha256}"
        )
        key, facts = f"archive:{entry.name}", {}
    else:
        purl = f"pkg:pypi/{normalized(entry.name)}@{quote(entry.version, safe='')}"
        key, facts = f"pypi:{normalized(entry.name)}", {}
    licence = licences.get(key, Licence())
    facts |= {"graftbox:file": entry.filename, "graftbox:components": ",".join(entry.components)}
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": entry.name,
        "version": entry.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        "properties": [
            *_properties(facts),
            *({"name": "graftbox:licence-file", "value": f"/openhands/{path}"} for path in licence.files),
        ],
    }
    if licence.names:
        component["licenses"] = [{"license": {"name": name}} for name in licence.names]
    if isinstance(entry, LockedPackage):
        component["pedigree"] = {"ancestors": [_source(entry.source)]}
    return component


def _source(text: str) -> dict[str, Any]:
    """A Debian source package, from ``NAME (VERSION)``."""
    name, _, version = text.partition(" ")
    version = version.strip("()")
    purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='~')}?arch=source"
    return {"type": "library", "name": name, "version": version, "purl": purl}


def _properties(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": values[name]} for name in sorted(values)]


def _licences(layer: Layer, store: Store) -> Licences:
    """What a layer's files say of licences; read once per layer."""
    record = store.folder("licences") / f"{layer.digest.removeprefix('sha256:')}-{LICENCES}.json"
    try:
        return {key: Licence(**value) for key, value in json.loads(record.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    path = store.blob_path(layer.digest)
    if not path.is_file():
        raise NotFoundError(f"The bundle's layer {layer.name} is gone. Run `graftbox bundle build`.")
    # Layers consist of several gzip members, which tarfile's own reader of streams stops at.
    with opened(path, layer.compression) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        found = _found(tar)
    with store.temporary_file() as (stream, temporary):
        stream.write(json.dumps({key: asdict(one) for key, one in found.items()}, sort_keys=True).encode())
        stream.close()
        with storage_errors(record):
            temporary.replace(record)
    return found


def _found(tar: tarfile.TarFile) -> Licences:
    """The licences of the packages in a layer, each with the texts that lie in the package's folder."""
    found: Licences = {}
    folders: dict[str, str] = {}
    texts: list[str] = []
    same: dict[str, str] = {}
    for member in tar:
        path = member.name.partition("/")[2]
        if member.isdir() or member.size > LARGEST_FILE:
            continue
        if match := _COPYRIGHT.match(path):
            key = f"deb:{match[1]}"
            found[key] = Licence(_of_copyright(_text(tar, member)), [path])
            if member.issym():  # several packages of one source have the same text
                same[key] = f"deb:{posixpath.basename(posixpath.dirname(member.linkname))}"
        elif match := _METADATA.search(path):
            key = f"pypi:{normalized(match[1])}"
            folders[posixpath.dirname(path)] = key
            found[key] = Licence(of_metadata(_text(tar, member)))
        elif path.endswith("/package.json") and (module := _of_module(_text(tar, member))):
            key, names = module
            folders[posixpath.dirname(path)] = key
            found.setdefault(key, Licence()).names = names
        elif _TEXT.search(path):
            texts.append(path)
    for key, other in same.items():
        found[key].names = found.get(other, Licence()).names
    for path in texts:
        above = posixpath.dirname(path)
        while above and above not in folders:
            above = posixpath.dirname(above)
        if above:
            found[folders[above]].files.append(path)
    return found


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    stream = tar.extractfile(member) if member.isreg() else None
    return stream.read().decode(errors="replace") if stream else ""


def _of_module(text: str) -> tuple[str, list[str]] | None:
    """(key, licences) of an npm package by its package.json (package.json(5)); None for a mere folder's."""
    try:
        facts = json.loads(text)
        if not isinstance(facts["name"], str) or not isinstance(facts["version"], str):
            return None
    except (ValueError, KeyError, TypeError):
        return None
    # Old packages have an object {"type": …} or a list of them.
    given = facts.get("license") or facts.get("licenses") or []
    several = given if isinstance(given, list) else [given]
    names = [str(one.get("type") or "") if isinstance(one, dict) else str(one) for one in several]
    return f"npm:{facts['name']}@{facts['version']}", _clean(names)


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

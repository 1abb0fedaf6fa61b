"""A tiny signed Debian archive and package index, made here and served on the loopback interface."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import http.server
import io
import lzma
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pysequoia import SignatureMode, Tsk, sign

from graftbox.bundle.lock import LockedPackage
from graftbox.bundle.sources import Sources

ARCHES = ("amd64", "arm64")


@dataclass
class Site:
    """An HTTP server over ``files``; knobs make it misbehave. ``asked`` is (method, path, Range)."""

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)  # the next answer of this path ends after so many bytes
    failures: dict[str, int] = field(default_factory=dict)  # so many answers of 503 first
    ranges: bool = True
    trickle: float = 0.0  # seconds between pieces of 1000 bytes
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.asked.append((self.command, path, self.headers.get("Range", "")))
        data = site.files.get(path)
        if site.failures.get(path, 0) > 0:
            site.failures[path] -= 1
            return self.answer(503, b"")
        if data is None:
            return self.answer(404, b"not here")
        wanted = self.headers.get("Range")
        if wanted and site.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self.answer(416, b"")
            extent = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206, data[start:], site.cut.pop(path, None), {"Content-Range": extent})
        return self.answer(200, data, site.cut.pop(path, None))

    def answer(
        self, status: int, data: bytes, cut: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", self.site.types.get(self.path, "application/octet-stream"))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data[:cut]
        try:
            if self.site.trickle:
                for start in range(0, len(body), 1000):
                    self.wfile.write(body[start : start + 1000])
                    self.wfile.flush()
                    threading.Event().wait(self.site.trickle)
            else:
                self.wfile.write(body)
        except OSError:  # the client has gone
            self.close_connection = True
        if cut is not None:
            self.close_connection = True


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()
    handler = type("SiteHandler", (Handler,), {"site": served})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Archive:
    """Debian suites on a `Site`: add packages, then `publish`."""

    site: Site
    keyring: Path
    key: Tsk
    stanzas: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, suite: str, name: str, version: str = "1.0", fields: str = "") -> LockedPackage:
        """Puts a package into a suite, for all architectures, and its file into the pool."""
        archive = "debian-security" if suite.endswith("-security") else "debian"
        data = f"{name} {version} ".encode() * 500
        path = f"pool/main/{name}_{version.replace(':', '%3a')}_all.deb".replace("%3a", "_")
        self.site.files[f"/{archive}/{path}"] = data
        sha256 = hashlib.sha256(data).hexdigest()
        stanza = (
            f"Package: {name}\nVersion: {version}\nFilename: {path}\nSize: {len(data)}\nSHA256: {sha256}\n"
        )
        for arch in ARCHES:
            self.stanzas.setdefault((suite, arch), []).append(stanza + fields)
        date = "2026-11-01T00:00:00Z"
        return LockedPackage(
            name, version, archive, path, len(data), sha256, f"{name} ({version})", date, ("core",)
        )

    def publish(self, suite: str, days: float = 7, signed_suite: str = "", key: Tsk | None = None) -> None:
        """Signs the suite: valid for ``days`` from now (negative: expired)."""
        archive = "debian-security" if suite.endswith("-security") else "debian"
        root = f"/{archive}/dists/{suite}"
        lines = []
        for arch in ARCHES:
            path = f"main/binary-{arch}/Packages.xz"
            data = lzma.compress("\n".join(self.stanzas.get((suite, arch), [])).encode())
            sha256 = hashlib.sha256(data).hexdigest()
            self.site.files[f"{root}/main/binary-{arch}/by-hash/SHA256/{sha256}"] = data
            lines.append(f" {sha256} {len(data)} {path}\n")
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        text = (
            f"Origin: Debian\nSuite: {signed_suite or suite}\nCodename: {signed_suite or suite}\n"
            f"Date: Sun, 01 Nov 2026 00:00:00 UTC\nValid-Until: {until:%a, %d %b %Y %H:%M:%S} UTC\n"
            f"Acquire-By-Hash: yes\nSHA256:\n{''.join(lines)}"
        )
        signed = sign((key or self.key).signer(), text.encode(), mode=SignatureMode.CLEAR)
        self.site.files[f"{root}/InRelease"] = signed

    def sources(self, tmp_path: Path, **options: str) -> Sources:
        """Sources that know this site only."""
        given = {
            "debian_mirror": f"{self.site.url}/debian",
            "security_mirror": f"{self.site.url}/debian-security",
            "index_url": f"{self.site.url}/simple",
        }
        return Sources.find({"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}, **(given | options))


@pytest.fixture(scope="session")
def signing_key() -> Tsk:
    return Tsk.generate("Archive <archive@example.org>")


@pytest.fixture(scope="session")
def other_key() -> Tsk:
    return Tsk.generate("Archive <archive@example.org>")


@pytest.fixture
def archive(site: Site, tmp_path: Path, signing_key: Tsk) -> Archive:
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(bytes(signing_key.extract_certificate()))
    return Archive(site, keyring, signing_key)


def _elf(
    arch: str = "amd64",
    interpreter: str | None = None,
    needed: Sequence[str] = (),
    soname: str | None = None,
    rpath: str | None = None,
    runpath: str | None = None,
    payload: bytes = b"",
) -> bytes:
    """A 64-bit ELF file with the headers that loaders read, and ``payload`` instead of code."""
    machine = {"amd64": 62, "arm64": 183}[arch]
    base = 0x10000  # addresses are not offsets, as in real files
    strings = b"\0"
    dynamic: list[tuple[int, int]] = []
    for tag, text in [
        *((1, name) for name in needed),
        (14, soname),
        (15, rpath),
        (29, runpath),
    ]:
        if text is not None:
            dynamic.append((tag, len(strings)))
            strings += text.encode() + b"\0"
    interp = (interpreter.encode() + b"\0") if interpreter else b""
    at_interp = 64 + 3 * 56
    at_strings = at_interp + len(interp)
    at_dynamic = at_strings + len(strings)
    dynamic += [(5, base + at_strings), (0, 0)]
    table = b"".join(struct.pack("<QQ", *entry) for entry in dynamic)
    size = at_dynamic + len(table) + len(payload)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)

    def segment(kind: int, offset: int, length: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 4, offset, base + offset, base + offset, length, length, 1)

    headers = [segment(1, 0, size), segment(2, at_dynamic, len(table))]
    headers.append(segment(3, at_interp, len(interp)) if interp else segment(0, 0, 0))
    return header + b"".join(headers) + interp + strings + table + payload


@pytest.fixture(scope="session")
def make_elf() -> Callable[..., bytes]:
    return _elf


def _deb(files: Mapping[str, bytes | str], compression: str = "xz") -> bytes:
    """A .deb of these files (``-> target`` a link); below bin/ or with ``#!`` is executable."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
                tar.addfile(member)
                continue
            member.size = len(content)
            member.mode = 0o755 if "/bin/" in name or content.startswith(b"#!") else 0o644
            tar.addfile(member, io.BytesIO(content))
    packers: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "gz": gzip.compress}
    data_tar = packers.get(compression, bytes)(buffer.getvalue())
    members = {
        "debian-binary": b"2.0\n",
        "control.tar": b"odd",
        f"data.tar{'.' if compression else ''}{compression}": data_tar,
    }
    deb = b"!<arch>\n"
    for name, data in members.items():
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        deb += data + b"\n" * (len(data) % 2)
    return deb


@pytest.fixture(scope="session")
def make_deb() -> Callable[..., bytes]:
    return _deb

"""The base images of the integration tests, made on this machine without Docker and kept in a cache.

All are tags of one OCI layout below ``$GRAFTBOX_TEST_CACHE`` (else the XDG cache). Debian's own come from the
machine's own apt mirror by mmdebstrap, the others are a handful of files of installed packages.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECIPE = "1"
"""Counts up when the bases below are made differently."""
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOSTILE = {
    "LD_LIBRARY_PATH": "/hostile",
    "LD_PRELOAD": "/hostile/preload.so",
    "PYTHONHOME": "/hostile",
    "PYTHONPATH": "/hostile",
    "LOCPATH": "/hostile",
    "GCONV_PATH": "/hostile",
    "GIT_EXEC_PATH": "/hostile",
    "SSL_CERT_FILE": "/hostile/none.pem",
    "TERMINFO": "/hostile",
    "LANG": "de_DE@euro",
    "TERM": "no-such-terminal",
    "ODD": "two\nlines = 'quoted' \\ $HOME",
}


@dataclass(frozen=True)
class Base:
    """One base image and what is true of it."""

    name: str
    layer: Callable[[Path], None] | None
    """Writes the tar of its only layer; None for an image without layers."""
    config: Mapping[str, Any] = field(default_factory=dict)
    program: str | None = None
    """A shell command that prints the memory map of a program of the base."""
    libc: str | None = None
    """What that map holds: the base's own C library; None for a static program."""
    environ: str | None = None
    """A program of the base that prints a file, for reading /proc/self/environ; None if it has none."""
    debian: str | None = None

    @property
    def variables(self) -> dict[str, str]:
        return dict(item.partition("=")[::2] for item in self.config.get("Env", ()))


# --- what the layers are made of -------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A file (bytes or a path to copy), a link (``target``) or a folder (neither)."""

    name: str
    content: bytes | Path | None = None
    target: str | None = None
    mode: int = 0o755


def write_tar(path: Path, entries: Sequence[Entry]) -> None:
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mode = entry.mode
            if entry.target is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.target
                archive.addfile(info)
            elif entry.content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                data = entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


MAPS = """
#include <stdio.h>
int main(int argc, char **argv) {
    FILE *file = fopen(argc > 1 ? argv[1] : "/proc/self/maps", "r");
    for (int c; file && (c = getc(file)) != EOF;) putchar(c);
    return !file;
}
"""
"""Prints its own memory map, or another file: a dynamically linked program in a few kB."""


def compiled(*command: str, source: str = MAPS) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        code, result = Path(folder, "program.c"), Path(folder, "program")
        code.write_text(source)
        subprocess.run([*command, "-o", result, code], check=True, capture_output=True)
        return result.read_bytes()


def busybox() -> list[Entry]:
    program = next(path for path in (Path("/usr/bin/busybox"), Path("/bin/busybox")) if path.exists())
    names = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    links = [Entry(f"bin/{name}", target="busybox") for name in names if name != "busybox"]
    return [Entry("bin"), Entry("bin/busybox", program), *links, Entry("tmp", mode=0o1777)]


def busybox_layer(path: Path) -> None:
    passwd = b"root:x:0:0:root:/root:/bin/sh\n"
    own = [Entry("etc"), Entry("etc/passwd", passwd, mode=0o644), Entry("root", mode=0o700)]
    write_tar(path, [*busybox(), *own])


def musl_layer(path: Path) -> None:
    loader = f"ld-musl-{platform.machine()}.so.1"
    libc = next(found for found in Path("/usr/lib").glob("*-linux-musl/libc.so"))
    own = [Entry("lib"), Entry("lib/libc.so", libc), Entry(f"lib/{loader}", target="libc.so")]
    write_tar(path, [*busybox(), *own, Entry("usr"), Entry("usr/bin"), _maps("musl-gcc")])


def distroless_layer(path: Path) -> None:
    """A C library, certificates and one program: no shell, no tools, no package manager."""
    library = subprocess.run(
        ["gcc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True
    )
    libc = Path(library.stdout.strip()).resolve()
    loader = Path(_interpreter(compiled("gcc")))
    folders = [Entry(str(folder).lstrip("/")) for folder in _parents(loader, Path("/lib", "base"))]
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    own = [
        Entry("etc"),
        Entry("etc/passwd", b"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:\n"),
        Entry("etc/ssl"),
        Entry("etc/ssl/certs"),
        Entry("etc/ssl/certs/ca-certificates.crt", certificates, mode=0o644),
        *folders,
        Entry(str(loader).lstrip("/"), loader.resolve()),
        Entry("lib/libc.so.6", libc),
        Entry("tmp", mode=0o1777),
        Entry("home"),
        Entry("home/nonroot", mode=0o777),
        Entry("usr"),
        Entry("usr/bin"),
        _maps("gcc"),
    ]
    write_tar(path, own)


def _maps(compiler: str) -> Entry:
    return Entry("usr/bin/maps", compiled(compiler, "-O1", "-s"))


def _interpreter(program: bytes) -> str:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    for segment in ELFFile(io.BytesIO(program)).iter_segments("PT_INTERP"):
        assert isinstance(segment, InterpSegment)
        return str(segment.get_interp_name())
    raise AssertionError("the compiler made a static program")


def _parents(*paths: Path) -> list[Path]:
    folders = {parent for path in paths for parent in path.parents if parent != Path("/")}
    return sorted(folders)


def mirror() -> str:
    """The address of Debian's archive in this machine's apt configuration."""
    wanted = ["$(SITE)\t$(LABEL)", "Created-By: Packages"]
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", *wanted], check=True, capture_output=True, text=True
    )
    for line in listed.stdout.splitlines():
        site, _, label = line.partition("\t")
        if label == "Debian":
            return site
    raise AssertionError("apt knows no Debian archive on this machine; run apt-get update")


def debian_layer(suite: str, *packages: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        # A testing suite may be past its Valid-Until on a mirror; these images are tests, not products.
        options = ["--quiet", "--variant=minbase", "--aptopt=Acquire::Check-Valid-Until false"]
        options += [f"--include={','.join(packages)}"] if packages else []
        command = ["mmdebstrap", *options, "--format=tar", suite, str(path), mirror()]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"mmdebstrap {suite} failed:\n{done.stderr[-2000:]}"

    return make


def hostile_layer(path: Path) -> None:
    """Only what HOSTILE points to: a library to preload, and wrong ones under the names of ours."""
    preload = compiled("gcc", "-shared", "-fPIC", "-nostdlib", source="int graftbox_was_preloaded = 1;")
    wrong = [
        "libpython3.13.so.1.0",
        "libevent_core-2.1.so.7",
        "libpcre2-8.so.0",
        "libz.so.1",
        "libcrypto.so.3",
    ]
    entries = [Entry(f"hostile/{name}", b"not a library\n") for name in wrong]
    python = [
        Entry("hostile/encodings.py", b"raise SystemExit('hostile')\n"),
        Entry("hostile/os.py", b"raise SystemExit('hostile')\n"),
    ]
    write_tar(path, [Entry("hostile"), Entry("hostile/preload.so", preload), *entries, *python])


# --- the table -------------------------------------------------------------------------------------------

GLIBC = {"bullseye": "libc-2.31.so", "bookworm": "libc.so.6", "trixie": "libc.so.6", "forky": "libc.so.6"}


def _debian(suite: str) -> Base:
    return Base(
        suite,
        debian_layer(suite),
        {"Env": [f"PATH={DEFAULT_PATH}"], "Cmd": ["bash"]},
        program="cat /proc/self/maps",
        libc=GLIBC[suite],
        environ="cat",
        debian=suite,
    )


BASES = {
    base.name: base
    for base in (
        Base("scratch", None),
        Base("busybox", busybox_layer, {"Cmd": ["sh"]}, "busybox cat /proc/self/maps", None, "cat"),
        Base(
            "musl",
            musl_layer,
            {"Cmd": ["/bin/sh"], "WorkingDir": "/work"},
            program="maps",
            libc="/lib/libc.so",
            environ="cat",
        ),
        Base(
            "distroless",
            distroless_layer,
            {"User": "65532", "WorkingDir": "/home/nonroot", "Env": ["SSL_CERT_FILE=/etc/ssl/certs/none"]},
            program="/usr/bin/maps",
            libc="libc.so.6",
            environ="maps",
        ),
        *(_debian(suite) for suite in GLIBC),
    )
}
_bookworm = BASES["bookworm"]
BASES["uid12345"] = Base(
    "uid12345",
    _bookworm.layer,
    {**_bookworm.config, "User": "12345"},
    _bookworm.program,
    _bookworm.libc,
    "cat",
    "bookworm",
)
BASES["hostile"] = Base(
    "hostile",
    _bookworm.layer,
    {**_bookworm.config, "Env": [*_bookworm.config["Env"], *(f"{k}={v}" for k, v in HOSTILE.items())]},
    _bookworm.program,
    _bookworm.libc,
    "cat",
    "bookworm",
)
WORKSHOP = Base(
    "workshop",
    debian_layer("bookworm", "curl", "git", "procps", "python-is-python3", "python3", "sudo"),
    {"Env": [f"PATH={DEFAULT_PATH}"], "Cmd": ["bash"]},
)
"""What agents' base images usually bring; not one of the matrix."""


# --- the layout ------------------------------------------------------------------------------------------


def cache() -> Path:
    explicit = os.environ.get("GRAFTBOX_TEST_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(explicit) if explicit else (Path(base) if base else Path.home() / ".cache") / "graftbox-tests"
    return root / f"bases-{RECIPE}-{ARCH}"


def reference(name: str) -> str:
    """``scratch`` or ``oci:DIR:NAME``, made now if this machine has not made it yet."""
    if name == "scratch":
        return "scratch"
    make([name])
    return f"oci:{cache()}/layout:{name}"


def make(names: Sequence[str]) -> None:
    """Makes those that are missing, two layers at a time."""
    known = {**BASES, WORKSHOP.name: WORKSHOP}
    wanted = [known[name] for name in names if known[name].layer is not None]
    with _lock():
        index = _read_index()
        missing = [base for base in wanted if base.name not in index]
        if not missing:
            return
        layers = {_layer_name(base): base.layer for base in missing if base.layer is not None}
        with ThreadPoolExecutor(2) as pool:
            made = dict(zip(layers, pool.map(_make_layer, layers, layers.values()), strict=True))
        if any(base.name == "hostile" for base in missing):
            made["hostile"] = _make_layer("hostile", hostile_layer)
        for base in missing:
            digests = [made[_layer_name(base)]]
            if base.name == "hostile":
                digests.append(made["hostile"])
            index[base.name] = _put_image(base, digests)
        _write_index(index)


def _layer_name(base: Base) -> str:
    return base.debian or base.name


def _make_layer(name: str, write: Callable[[Path], None]) -> str:
    """Writes a layer unless it is there; returns the hex digest of its tar."""
    note = cache() / f"{name}.digest"
    if note.exists():
        return note.read_text()
    blobs = cache() / "layout/blobs/sha256"
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        path = Path(folder, f"{name}.tar")
        write(path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        shutil.move(path, blobs / digest)
    (blobs / digest).chmod(0o644)
    note.write_text(digest)
    return digest


def _put_image(base: Base, layers: Sequence[str]) -> dict[str, Any]:
    config = {
        "architecture": ARCH,
        "os": "linux",
        "config": dict(base.config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in layers]},
    }
    blobs = cache() / "layout/blobs/sha256"
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", **_put(json.dumps(config).encode())},
        "layers": [
            {
                "mediaType": f"{kind}.layer.v1.tar",
                "digest": f"sha256:{digest}",
                "size": (blobs / digest).stat().st_size,
            }
            for digest in layers
        ],
    }
    return {
        "mediaType": f"{kind}.manifest.v1+json",
        **_put(json.dumps(manifest).encode()),
        "annotations": {"org.opencontainers.image.ref.name": base.name},
        "platform": {"architecture": ARCH, "os": "linux"},
    }


def _put(data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (cache() / "layout/blobs/sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _read_index() -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads((cache() / "layout/index.json").read_text())["manifests"]
    except FileNotFoundError:
        return {}
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry for entry in entries}


def _write_index(index: Mapping[str, Mapping[str, Any]]) -> None:
    layout = cache() / "layout"
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    body = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": list(index.values()),
    }
    temporary = layout / ".index.json"
    temporary.write_text(json.dumps(body))
    temporary.replace(layout / "index.json")


@contextmanager
def _lock() -> Iterator[None]:
    (cache() / "layout/blobs/sha256").mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@functools.cache
def all_references() -> dict[str, str]:
    """Every base by name; the first call on a machine takes a minute or two."""
    make(list(BASES))
    return {name: reference(name) for name in BASES}


if __name__ == "__main__":
    print(json.dumps(all_references(), indent=1))

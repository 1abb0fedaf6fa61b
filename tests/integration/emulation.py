"""Programs for arm64 on a machine of another architecture: by an emulator that this kernel starts, or in an
emulated machine with a kernel of its own.
"""

from __future__ import annotations

import lzma
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.conftest import free_port, missing, program, started

from graftbox.sandbox.client import Client

# The first bytes of a program for arm64, and which of their bits tell: binfmt_misc in Linux' documentation.
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_REGISTER = """
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc &&
printf %s "$1" > /proc/sys/fs/binfmt_misc/register && shift && exec "$@"
"""


def registered(*command: str) -> list[str]:
    """A command that runs where the kernel starts the emulator for every arm64 program.

    That is a user namespace of its own, with root in it (since Linux 6.7); the machine stays as it is.
    """
    emulator = program("qemu-aarch64-static", "qemu-user-static")
    # P: the program keeps its own name; F: the emulator is open already, so it is needed in no root.
    rule = f":arm64:M::{_MAGIC}:{_MASK}:{emulator}:PF"
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", _REGISTER, "sh", rule, *command]


def need_registration() -> None:
    """Skips where the kernel has no emulators of a user namespace; no package could bring them."""
    done = subprocess.run(registered("true"), capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"missing on this machine: binfmt_misc in a user namespace (Linux 6.7): {done.stderr}")


# In the order in which they need one another; a kernel may have some of them built in.
_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "failover"),
    *("net_failover", "virtio_net", "virtio_blk", "virtio-rng"),
    *("crc16", "libcrc32c", "crc32c_generic", "mbcache", "jbd2", "ext4"),
)
# QEMU's network has fixed addresses; 10.0.2.15 is the guest's.
_INIT = """#!/bin/busybox sh
PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
for module in {modules}; do insmod /modules/$module.ko; done
ifconfig lo 127.0.0.1
ifconfig eth0 10.0.2.15
mount -t tmpfs -o mode=755 root /root
cd /root
mkdir -p proc sys dev tmp openhands work
mount -t ext4 -o ro /dev/vda openhands
mount --move /proc proc
mount --move /dev dev
mount -t sysfs sysfs sys
mkdir -p dev/pts dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=1777 tmp tmp
unset TERM
export SESSION_API_KEY={key}
exec switch_root /root /openhands/bin/action-execution-server 60000 --working-dir /work {options}
"""
_APPLETS = ("mount", "insmod", "ifconfig", "mkdir", "switch_root")
KEY = "key"


@contextmanager
def machine(tree: Path, folder: Path, options: str = "") -> Iterator[Client]:
    """An emulated machine whose first process is the server, in a root that has nothing but the bundle.

    ``folder`` gets its disk, 0.7 GB, and what it is started from; ``options`` are the server's.
    """
    emulator = program("qemu-system-aarch64", "qemu-system-arm")
    kernel = start_files(folder, _INIT.replace("{options}", options).replace("{key}", KEY))
    port = free_port()
    command = [emulator, "-machine", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "3G", "-nodefaults"]
    command += ["-accel", "tcg,thread=multi", "-display", "none", "-serial", "stdio", "-no-reboot"]
    command += ["-kernel", str(kernel), "-initrd", str(folder / "initrd"), "-append", "quiet panic=-1"]
    command += ["-drive", f"file={disk(tree, folder)},format=raw,if=none,id=disk,readonly=on"]
    command += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:60000"]
    for device in ("virtio-blk-pci,drive=disk", "virtio-net-pci,netdev=net", "virtio-rng-pci"):
        command += ["-device", f"{device},romfile="]
    with (
        Client(f"http://127.0.0.1:{port}", KEY) as client,
        started(command, folder / "log", client.alive, 300),
    ):
        yield client


def disk(tree: Path, folder: Path) -> Path:
    """A file system with the bundle, made without root."""
    path = folder / "disk"
    room = sum(-(-one.lstat().st_size // 4096) * 4096 + 512 for one in tree.rglob("*"))
    options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(tree)]
    size = f"{room * 11 // 10 // 1024 + 65536}k"
    command = [program("mke2fs", "e2fsprogs"), *options, str(path), size]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return path


def start_files(folder: Path, init: str) -> Path:
    """The kernel's path; ``initrd`` beside it has its modules, busybox and the program that comes first."""
    unpacked = folder / "packages"
    for package in packages(folder):
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
    files: dict[str, bytes | str | None] = dict.fromkeys(["bin", "modules", "proc", "dev", "root"])
    found = []
    for name in _MODULES:
        for path in unpacked.rglob(f"{name}.ko*"):
            content = path.read_bytes()
            files[f"modules/{name}.ko"] = lzma.decompress(content) if path.suffix == ".xz" else content
            found.append(name)
    files["bin/busybox"] = next(unpacked.rglob("bin/busybox")).read_bytes()
    files |= dict.fromkeys([f"bin/{name}" for name in _APPLETS], "busybox")
    files["init"] = init.replace("{modules}", " ".join(found)).encode()
    (folder / "initrd").write_bytes(cpio(files))
    return next(unpacked.glob("boot/vmlinuz-*"))


def packages(folder: Path) -> list[Path]:
    """Debian's kernel for virtual machines and busybox for arm64, from where apt gets this machine's own.

    apt's lists and settings of this machine stay as they are.
    """
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    options = ["APT::Architecture=arm64", "APT::Architectures::=arm64", f"Dir::State::Lists={folder}/lists"]
    options += [
        f"Dir::State::status={folder}/status",
        f"Dir::Cache={folder}/cache",
        "APT::Sandbox::User=root",
    ]
    given = [word for option in options for word in ("-o", option)]

    def apt(tool: str, *arguments: str) -> str:
        command = [program(tool, "apt"), *given, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            missing(f"packages for arm64 where apt gets this machine's: {done.stderr}")
        return done.stdout

    apt("apt-get", "-qq", "update")
    depends = apt("apt-cache", "depends", "linux-image-cloud-arm64").split()
    kernel = next(word for word in depends if word.startswith("linux-image-") and word[12].isdigit())
    apt("apt-get", "-qq", "download", kernel, "busybox-static")
    return sorted(folder.glob("*.deb"))


def cpio(files: dict[str, bytes | str | None]) -> bytes:
    """What Linux unpacks at its start. By name: a file's bytes, a link's target, or None for a folder."""
    packed = bytearray()
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")], start=1):
        kind = 0o40755 if content is None else 0o120777 if isinstance(content, str) else 0o100755
        data = content.encode() if isinstance(content, str) else content or b""
        path = name.encode() + b"\0"
        fields = (number, kind, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        packed += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        packed += bytes(-len(packed) % 4) + data
        packed += bytes(-len(packed) % 4)
    return bytes(packed)

"""The bubblewrap command line of a sandbox; computed, not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from graftbox.errors import UnsupportedError, UsageError
from graftbox.sandbox.rootfs import guest_path
from graftbox.sandbox.spec import (
    GUEST_SOCKET_FOLDER,
    SERVER_COMMAND,
    Network,
    SandboxSpec,
    UnpackedImage,
    server_variables,
)
from graftbox.sandbox.users import User

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CAPABILITIES = [
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
]
"""What Docker leaves to a container's root; here they count inside the user namespace only."""

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""The machine's switches, which uid 0 may turn even without capabilities (OCI's ``readonlyPaths``)."""

BECOME = (
    "import os, sys; uid, gid, groups = sys.argv[1:4]; "
    "os.setgroups([int(g) for g in groups.split(',') if g]); "
    "os.setresgid(*[int(gid)] * 3); os.setresuid(*[int(uid)] * 3); os.execv(sys.argv[4], sys.argv[4:])"
)
"""Becomes the user inside the sandbox: bubblewrap cannot switch both ids in a namespace it did not make."""


@dataclass(frozen=True)
class Places:
    """The folders of one sandbox on this machine."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def upper(self) -> Path:
        return self.root / "upper"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def copy(self) -> Path:
        return self.root / "rootfs"

    @property
    def socket_folder(self) -> Path:
        return self.root / "run"

    @property
    def hosts(self) -> Path:
        return self.root / "hosts"


def environment(spec: SandboxSpec, image: UnpackedImage, user: User, port: int) -> dict[str, str]:
    """The environment of the server's process: the image's, as Docker completes it, and the server's own."""
    variables = {"PATH": DEFAULT_PATH, "HOSTNAME": spec.name}
    for item in image.config.get("Env") or ():
        name, _, value = item.partition("=")
        variables[name] = value
    variables.update(spec.env)
    variables.setdefault("HOME", user.home)
    variables.update(server_variables(spec, port, loopback=True))
    return variables


def command(spec: SandboxSpec, image: UnpackedImage, user: User, *, become: bool) -> list[str]:
    """What runs in the sandbox as its first process; nothing secret, so it may be seen in ``ps``."""
    if spec.tree is None:
        # A runtime image brings its own entry point, which may run the base's program too.
        argv = [*(image.config.get("Entrypoint") or ()), *(image.config.get("Cmd") or ())]
    else:
        argv = list(SERVER_COMMAND)
    if not argv or not argv[0].startswith("/openhands/"):
        raise UsageError(
            "The image does not start graftbox's server; graft it first, or use --deliver mount."
        )
    if not become or user.uid == 0:
        return argv
    groups = ",".join(str(group) for group in user.groups)
    return [
        "/openhands/libexec/python3.13",
        "-ISB",
        "-c",
        BECOME,
        str(user.uid),
        str(user.gid),
        groups,
        *argv,
    ]


def arguments(
    spec: SandboxSpec,
    image: UnpackedImage,
    user: User,
    places: Places,
    port: int,
    *,
    overlay: bool,
    mapped: bool,
) -> list[str]:
    """All options of bubblewrap, for its ``--args``; the key is among them.

    ``overlay`` is False for a sandbox with its own copy of the files. ``mapped`` says that bubblewrap
    enters a user namespace with all ids (root's way); else it makes one with the single id of the user.
    """
    options = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--hostname", spec.name]
    if spec.network is Network.NONE:
        options.append("--unshare-net")
    elif spec.network is Network.BRIDGE:
        raise UnsupportedError(
            "The embedded engine has no bridge network; use --network host or none, "
            "or --engine docker or podman."
        )
    if not mapped:
        options += ["--unshare-user", "--uid", str(user.uid), "--gid", str(user.gid)]
    options += _capabilities(spec, user, mapped=mapped)
    lower = image.rootfs
    if overlay:
        options += ["--overlay-src", str(lower), "--overlay", str(places.upper), str(places.work), "/"]
    else:
        lower = places.copy
        options += ["--bind", str(lower), "/"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    for path in READ_ONLY:
        options += ["--ro-bind-try", path, path]
    # glibc and Go count processors here; the rest of /sys would show the machine's devices.
    cpus = "/sys/devices/system/cpu"
    options += [*_folders(cpus), "--ro-bind-try", cpus, cpus]
    options += _mounts(spec, places, lower)
    working_dir = spec.working_dir or image.config.get("WorkingDir") or "/"
    options += _folders(f"{guest_path(lower, working_dir)}/x")
    if spec.read_only:
        options += ["--remount-ro", "/"]
    options += ["--chdir", working_dir, "--clearenv"]
    for name, value in environment(spec, image, user, port).items():
        options += ["--setenv", name, value]
    return options


def _capabilities(spec: SandboxSpec, user: User, *, mapped: bool) -> list[str]:
    dropped = {name.upper().removeprefix("CAP_") for name in spec.cap_drop}
    kept = [name for name in CAPABILITIES if user.uid == 0 and not dropped & {"ALL", name}]
    if mapped and user.uid != 0:
        kept = ["SETUID", "SETGID"]  # for BECOME, which loses them by becoming the user
    options = ["--cap-drop", "ALL", *(word for name in kept for word in ("--cap-add", f"CAP_{name}"))]
    # Gone already, but bubblewrap refuses what is no capability, such as a misspelt one.
    others = sorted(dropped - {"ALL", *CAPABILITIES})
    return [*options, *(word for name in others for word in ("--cap-drop", f"CAP_{name}"))]


def _mounts(spec: SandboxSpec, places: Places, lower: Path) -> list[str]:
    options: list[str] = []

    def mount(target: str, *words: str) -> None:
        target = guest_path(lower, target)
        options.extend([*_folders(target), *words, target])

    for target in sorted(spec.tmpfs):
        mount(target, "--perms", "1777", "--tmpfs")
    if spec.tree is not None:
        mount("/openhands", "--ro-bind", str(spec.tree / "openhands"))
    mount("/etc/hosts", "--ro-bind", str(places.hosts))
    if spec.network is Network.NONE:
        mount(GUEST_SOCKET_FOLDER, "--bind", str(places.socket_folder))
    else:
        mount("/etc/resolv.conf", "--ro-bind-try", "/etc/resolv.conf")
    for volume in sorted(spec.volumes, key=lambda volume: volume.target):
        mount(volume.target, "--ro-bind" if volume.read_only else "--bind", str(volume.source))
    return options


def _folders(path: str) -> list[str]:
    """Makes the folders above ``path``; bubblewrap itself would make them for root's eyes only."""
    above = [str(folder) for folder in reversed(PurePosixPath(path).parents)][1:]
    return [word for folder in above for word in ("--dir", folder)]


def nul_separated(options: Sequence[str]) -> bytes:
    """As ``--args`` reads them."""
    return b"".join(option.encode("utf-8", "surrogateescape") + b"\0" for option in options)

"""The user that the actions run as: one the image has, or one made in the running container when asked for.

Nothing here runs a program of the image. The account that is made is what OpenHands' server makes with
useradd: primary group 0, a home folder with the skeleton files, sudo without a password where the image has
sudo. Its line comes first among those with the same number, so that this number is shown by its name.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from graftbox.server.environment import Environment
from graftbox.server.identity import Identity, groups_of, passwd_entry
from graftbox.server.settings import Settings

DEFAULT_UID = 1000
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/openhands/bin/oh-bash")
_TEMPORARY = ("/tmp", "/dev/shm", "/run")
_SUDO = ("/usr/bin/sudo", "/usr/local/bin/sudo", "/bin/sudo")
_CAP_SETGID, _CAP_SETUID = 6, 7

log = logging.getLogger("graftbox.users")


def choose(settings: Settings, environment: Environment) -> Identity:
    """The user that ``settings`` ask for, made if missing; the server's own where another can't be had."""
    name, uid, own = settings.username, settings.user_id, Identity.own()
    if name is None and uid is None:
        return own
    entry = passwd_entry(name if name is not None else uid if uid is not None else own.uid)
    if name is not None and entry and uid not in (None, entry[1]):
        log.warning("User %s of this image has number %d, which is used instead of %s.", name, entry[1], uid)
    wanted = entry[1] if entry else 0 if name == "root" else DEFAULT_UID if uid is None else uid
    if wanted == own.uid or (name and not entry and name == environment.get("USER")):
        return _told(own, entry, environment) if name and entry else own
    if not _may_become(wanted):
        log.warning(
            "Actions run as user %d: only a server started as root, with the capabilities SETUID and SETGID "
            "and in a user namespace that has this number, can run them as %s.",
            own.uid,
            name or uid,
        )
        return own
    if entry is None:
        return _newcomer(name, wanted, environment)
    found, number, gid, home, shell = entry
    groups = groups_of(found, gid)
    return Identity(number, gid, groups, found, home or "/", shell or _shell(), switched=True)


def _told(own: Identity, entry: tuple[str, int, int, str, str], environment: Environment) -> Identity:
    """The server's own user, asked for by name: what the container leaves out, its processes are told."""
    name, _, _, home, shell = entry
    return replace(
        own,
        name=None if environment.get("USER") else name,
        home=None if environment.get("HOME") else home or "/",
        shell=None if environment.get("SHELL") else shell or _shell(),
    )


def _may_become(uid: int) -> bool:
    if os.geteuid() != 0:
        return False
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        mapped = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    can_switch = all(capabilities >> number & 1 for number in (_CAP_SETUID, _CAP_SETGID))
    return can_switch and any(
        first <= uid < first + count for first, _, count in (map(int, line.split()) for line in mapped)
    )


def _newcomer(name: str | None, uid: int, environment: Environment) -> Identity:
    """A user without an entry in /etc/passwd; one asked for by name gets it, if the file can be written."""
    home = _make_home(name, uid)
    shell = _shell()
    new = Identity(uid, 0, (0,), name, home, shell, switched=True)
    if name is None:
        return new
    try:
        with _account_files_locked():
            _add_account(f"{name}:*:{uid}:0::{home}:{shell}\n", uid)
            if environment.get("GRAFTBOX_SUDO") != "0":
                _allow_sudo(name)
    except OSError as error:
        log.warning(
            "User %s has no entry in /etc/passwd (%s); actions run as its number, %d.",
            name,
            error.strerror,
            uid,
        )
        return new
    return replace(new, groups=groups_of(name, 0))


def _make_home(name: str | None, uid: int) -> str:
    """A home folder of the user's own, wherever one can be made."""
    places = [f"{folder}/home-{name or uid}" for folder in _TEMPORARY]
    for place in [f"/home/{name}", *places] if name else places:
        home = Path(place)
        try:
            if home.is_dir() and not home.is_symlink() and home.stat().st_uid in (0, uid):
                os.chown(home, uid, 0)
                return str(home)
            home.parent.mkdir(exist_ok=True)
            home.mkdir(mode=0o755)
            _copy_skeleton(home)
            for path in (home, *home.rglob("*")):
                os.chown(path, uid, 0, follow_symlinks=False)
        except OSError:
            continue
        return str(home)
    log.warning("No home folder could be made for user %s; it is /.", name or uid)
    return "/"


def _copy_skeleton(home: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.copytree("/etc/skel", home, symlinks=True, dirs_exist_ok=True)


def _shell() -> str:
    return next((path for path in _SHELLS if os.access(path, os.X_OK)), _SHELLS[-1])


@contextlib.contextmanager
def _account_files_locked() -> Iterator[None]:
    """As lckpwdf(3) does; raises `OSError` where /etc can't be written."""
    Path("/etc").mkdir(exist_ok=True)
    handle = os.open("/etc/.pwd.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _add_account(line: str, uid: int) -> None:
    lines = _content("/etc/passwd").splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    namesakes = (index for index, entry in enumerate(lines) if entry.split(b":")[2:3] == [b"%d" % uid])
    first = next(namesakes, len(lines))
    if first < len(lines):
        other = os.fsdecode(lines[first].partition(b":")[0])
        log.warning("Number %d belongs to %s too; its files are shown under the new name.", uid, other)
    _replace("/etc/passwd", b"".join((*lines[:first], os.fsencode(line), *lines[first:])), 0o644)


def _allow_sudo(name: str) -> None:
    if not any(os.access(path, os.X_OK) for path in _SUDO):
        return
    line = f"{name} ALL=(ALL) NOPASSWD:ALL\n".encode()
    rules = _content("/etc/sudoers")
    if line not in rules:
        _replace("/etc/sudoers", rules + (b"" if rules.endswith(b"\n") or not rules else b"\n") + line, 0o440)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""


def _replace(path: str, content: bytes, mode: int) -> None:
    """In one step, with the mode the file had; through the file where it is a mount of its own."""
    target = Path(path).resolve()
    temporary = target.with_name(f"{target.name}.graftbox")
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode & 0o7777
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    try:
        temporary.replace(target)
    except OSError:
        temporary.unlink()
        target.write_bytes(content)

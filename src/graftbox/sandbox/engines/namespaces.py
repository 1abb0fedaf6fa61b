"""A user namespace that keeps every uid as it is, made by root for bubblewrap to enter."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from graftbox.errors import UnsupportedError

CLONE_NEWUSER = 0x10000000
FORBIDDEN = (
    "This machine does not let {who} make and use a user namespace ({why}). Ask its administrator to allow "
    "it: `sysctl kernel.unprivileged_userns_clone=1` (older Debian), `sysctl "
    "kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), `sysctl user.max_user_namespaces=10000`, or a "
    "container started with --security-opt seccomp=unconfined, apparmor=unconfined and "
    "systempaths=unconfined; or use --engine docker or podman."
)


@contextlib.contextmanager
def identity() -> Iterator[int]:
    """A descriptor of a new user namespace with all of our uids and gids mapped to themselves. Needs root.

    Its root has power over the sandbox's own mounts and processes only, not over the machine's.
    """
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        _hold_namespace(ready_write, done_read, done_write)
    os.close(ready_write)
    os.close(done_read)
    try:
        answer = os.read(ready_read, 32)
        if answer != b"ok":
            why = _reason(int(answer)) if answer.isdigit() else "no answer"
            raise UnsupportedError(FORBIDDEN.format(who="root", why=why))
        try:
            for kind in ("uid_map", "gid_map"):
                Path(f"/proc/{child}/{kind}").write_text(_same_ids(Path(f"/proc/self/{kind}").read_text()))
            handle = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnsupportedError(FORBIDDEN.format(who="root", why=error.strerror)) from error
    finally:
        os.close(done_write)
        os.close(ready_read)
        os.waitpid(child, 0)
    try:
        yield handle
    finally:
        os.close(handle)


def _reason(number: int) -> str:
    """What unshare(2)'s error means; ENOSPC has nothing to do with disks here."""
    return "user.max_user_namespaces is reached" if number == errno.ENOSPC else os.strerror(number)


def _same_ids(own_map: str) -> str:
    """The map of a child namespace that keeps the ids that ``own_map`` (proc's ``uid_map``) gives us."""
    lines = [line.split() for line in own_map.splitlines()]
    return "".join(f"{inner} {inner} {count}\n" for inner, _, count in lines)


def _hold_namespace(ready: int, done: int, other_end: int) -> None:
    """The child's whole life: make the namespace, say so, wait until it has been opened."""
    try:
        os.close(other_end)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.unshare(CLONE_NEWUSER) != 0
        os.write(ready, str(ctypes.get_errno()).encode() if failed else b"ok")
        os.read(done, 1)
    finally:
        os._exit(0)

"""Whom the actions run as: the server's own user, or another that a server started as root turns into.

Processes change over with `Identity.popen`. File work of the server itself runs on threads whose file system
user and group are the identity's (setfsuid(2)): the kernel then checks permissions and sets owners as for
that user, while no process of that user can touch the thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from graftbox.errors import UnsupportedError

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
# setgroups(2) by number: glibc's own would change every thread of the process.
_SETGROUPS = {"x86_64": 116, "aarch64": 159}


@dataclass(frozen=True)
class Identity:
    """A user by numbers; ``name``, ``home`` and ``shell`` are what its processes are told, None: nothing.

    ``switched``: other than the server's own user.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str | None = None
    home: str | None = None
    shell: str | None = None
    switched: bool = field(default=False)

    @classmethod
    def own(cls) -> Identity:
        """The server's own user, with the environment as it is."""
        return cls(os.geteuid(), os.getegid(), tuple(os.getgroups()))

    def popen(self) -> dict[str, Any]:
        """Arguments for `subprocess.Popen` that start a process as this user."""
        if not self.switched:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}

    def environment(self, entries: Iterable[bytes]) -> tuple[bytes, ...]:
        """``NAME=value`` entries with the variables that say who the user is, as su(1) sets them."""
        told = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}
        mine = {name.encode(): os.fsencode(value) for name, value in told.items() if value is not None}
        kept = [entry for entry in entries if entry.partition(b"=")[0] not in mine]
        return (*kept, *(name + b"=" + value for name, value in mine.items()))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function``, which works on files, on a thread with this user's rights to them."""
        if not self.switched:
            return await asyncio.to_thread(function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))
        except BrokenExecutor as error:
            raise UnsupportedError(
                f"The server can't work on files as user {self.uid}: this container forbids it to change the "
                "user of a thread (setgroups, setfsuid). Start it as that user."
            ) from error

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, f"as-{self.uid}", initializer=self._become)

    def _become(self) -> None:
        """Give the calling thread, and it alone, this user's rights to files."""
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        number = _SETGROUPS[os.uname().machine]
        groups = (ctypes.c_uint32 * len(self.groups))(*self.groups)
        refused = libc.syscall(number, len(groups), groups)
        libc.setfsgid(self.gid)
        libc.setfsuid(self.uid)
        # Both return the former value: the second call is the only way to see whether the first one worked.
        if refused or libc.setfsgid(self.gid) != self.gid or libc.setfsuid(self.uid) != self.uid:
            raise PermissionError(f"cannot become user {self.uid}")


def passwd_entry(user: str | int) -> tuple[str, int, int, str, str] | None:
    """``(name, uid, gid, home, shell)`` of the user with this name or number in /etc/passwd.

    The file is read as it is: our C library knows nothing of the image's own name service.
    """
    column = 2 if isinstance(user, int) else 0
    for parts in _lines("/etc/passwd", 7):
        if parts[column] == str(user) and parts[2].isdigit() and parts[3].isdigit():
            return parts[0], int(parts[2]), int(parts[3]), parts[5], parts[6]
    return None


def groups_of(name: str, gid: int) -> tuple[int, ...]:
    """The group numbers of a user: its own and those that list it in /etc/group.

    One without a name is in no list; groups without members have an empty one.
    """
    listed = {
        int(parts[2])
        for parts in _lines("/etc/group", 4)
        if name and name in parts[3].split(",") and parts[2].isdigit()
    }
    return (gid, *sorted(listed - {gid}))


def group_number(group: str) -> int | None:
    """The number of a group named in /etc/group; a number is itself."""
    if group.isascii() and group.isdigit():
        return int(group)
    return next((int(parts[2]) for parts in _lines("/etc/group", 3) if parts[0] == group), None)


def _lines(path: str, fields: int) -> list[list[str]]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [parts for line in text.splitlines() if len(parts := line.split(":")) >= fields]

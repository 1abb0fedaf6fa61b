"""The runtime folder: where the server's sockets, logs and notes are, found again by the next server.

.graftbox-UID-KEY/     locked by the living server; KEY stands for the port or the socket
    s/ID.log           a session's log (ring.py), ID.json what the next server must know of the session,
    s/ID.sock          where its keeper waits for the next server
    uUID/              tmux's socket, and the one that keepers call, for one user's sessions
"""

from __future__ import annotations

import binascii
import contextlib
import fcntl
import os
import shutil
import socket
import stat
import time
from pathlib import Path

from graftbox.errors import StorageError
from graftbox.server.environment import Environment
from graftbox.server.identity import Identity

_FOLDER = ".graftbox-"
_YOUNG_SECONDS = 60.0
# A Unix socket's path is at most 107 bytes.
_LONGEST = 62


def key_of(port: int | None, path: str | None) -> str | None:
    """What tells one server's folder from another's; None where nothing stays the same."""
    if port:
        return str(port)
    return f"s{binascii.crc32(os.fsencode(path)):08x}" if path else None


def claim(environment: Environment, working_dir: str, key: str | None) -> tuple[Path, int]:
    """A private folder in the first place that allows one: that of the server before, if it left one.

    Also returns the file descriptor that holds its lock, by which the next server knows that it is in use.
    Raises `StorageError`.
    """
    tried = []
    for place in filter(None, (environment.get("XDG_RUNTIME_DIR"), "/tmp", "/dev/shm", "/run", working_dir)):
        parent = Path(place)
        if not parent.is_absolute() or len(os.fsencode(place)) > _LONGEST:
            continue
        try:
            if place == "/tmp" and os.geteuid() == 0 and not parent.exists():
                parent.mkdir()
                parent.chmod(0o1777)
            _remove_abandoned(parent)
            for name in (key, os.urandom(4).hex()):
                folder = parent / f"{_FOLDER}{os.geteuid()}-{name}"
                if name is not None and (lock := _lock(folder)) is not None:
                    (folder / "s").mkdir(mode=0o700, exist_ok=True)
                    return folder, lock
        except OSError as error:
            tried.append(f"{place} ({error.strerror})")
    raise StorageError(
        f"No writable folder for the server's sockets: tried {', '.join(tried)}. "
        "Mount a tmpfs on /tmp, or set XDG_RUNTIME_DIR to a writable folder."
    )


def place_for(folder: Path, identity: Identity) -> Path:
    """The part of the folder that belongs to one user; others but the server can't enter it."""
    place = folder / f"u{identity.uid}"
    place.mkdir(mode=0o700, exist_ok=True)
    if identity.switched:
        folder.chmod(0o711)
        os.chown(place, identity.uid, identity.gid)
    return place


def _lock(folder: Path) -> int | None:
    """The lock of ``folder``, made if need be; None while another server or user has it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(lock)
        if found.st_uid != os.geteuid():
            raise PermissionError(1, "the folder belongs to another user")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last server may have removed it between the two steps above.
        if not os.path.samestat(found, folder.stat()):
            raise FileNotFoundError
    except (BlockingIOError, FileNotFoundError, PermissionError):
        os.close(lock)
        return None
    except OSError:
        pass  # a file system without locks
    if stat.S_IMODE(found.st_mode) not in (0o700, 0o711):
        folder.chmod(0o700)
    return lock


def _remove_abandoned(parent: Path) -> None:
    """Remove folders of this user whose server is gone, as nobody holds their lock, and which no other server
    will ask for or in which no shell lives any more.
    """
    for folder in parent.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            # A folder this young may not be locked yet.
            if found.st_uid != os.geteuid() or time.time() - found.st_mtime < _YOUNG_SECONDS:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                nobody_asks = len(folder.name.rpartition("-")[2]) == 8
                living = [path for path in folder.glob("s/*.sock") if _call(path, end=nobody_asks)]
                if nobody_asks or not living:
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def end_keeper(path: Path) -> None:
    """Tell the keeper that waits at ``path`` to end, if there is one."""
    _call(path, end=True)


def _call(path: Path, *, end: bool) -> bool:
    """Whether a keeper listens at ``path``; it is told to end if so asked."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(path))
            if end:
                connection.sendall(b"x\0\0\0\0")
                while connection.recv(4096):
                    pass
        except OSError:
            return False
    return True

"""The working folder: made where it is missing, and given to the user that the actions run as.

OpenHands' server changes the owner of everything in it at every start. Here only a folder that belongs to
someone else is handed over, which is once, and only what belonged to its former owner changes hands.
What somebody puts there later, as root on the host does, is handed over when a client uploads into it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from graftbox.server.identity import Identity, group_number

log = logging.getLogger("graftbox.workspace")


def prepare(path: str, identity: Identity, group: str) -> None:
    """Blocking, and long for a large folder that is handed over. What can't be done is logged."""
    folder = Path(path)
    gid = group_number(group)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o775)
            if identity.switched:
                os.chown(folder, identity.uid, gid or 0)
        elif identity.switched and folder.resolve() != Path("/"):
            _hand_over(folder, identity.uid, gid or 0)
    except OSError as error:
        log.warning("The working folder %s could not be prepared: %s.", path, error.strerror)
    if gid is None:
        log.warning("SANDBOX_GROUP_ID %s is neither a number nor a group of this image.", group)


def _hand_over(folder: Path, uid: int, gid: int) -> None:
    now = folder.stat()
    folder.chmod(stat.S_IMODE(now.st_mode) | stat.S_IRGRP | stat.S_IWGRP)
    if now.st_uid == uid:
        return
    changed = 0
    # Over descriptors, so that no link leads out of the folder; its mounts are not followed either.
    for _, folders, files, here in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
            if found.st_dev != now.st_dev:
                folders[:] = [other for other in folders if other != name]
            elif found.st_uid == now.st_uid:
                os.chown(name, uid, gid, dir_fd=here, follow_symlinks=False)
                changed += 1
    os.chown(folder, uid, gid)
    if changed:
        log.info("%s and %d entries in it now belong to user %d.", folder, changed, uid)


def claim(working_dir: str, places: Iterable[Path], identity: Identity) -> None:
    """Hand over the folders below the working folder that the user needs to write ``places``.

    The model uploads as root, and its clients do so into folders that root on the host has just made. No
    link and no mount is followed. Blocking, as root; what can't be handed over is left to be refused.
    """
    root = Path(working_dir).resolve()
    folders = {place.parent.relative_to(root) for place in places if place.parent.is_relative_to(root)}
    for folder in sorted(folders):
        if ".." not in folder.parts:
            _claim(root, folder, identity)


def _claim(root: Path, folder: Path, identity: Identity) -> None:
    """By descriptors: whatever is renamed meanwhile, only what was looked at changes its owner."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
        here = os.open(root, flags)
        opened.callback(os.close, here)
        device = os.fstat(here).st_dev
        for name in folder.parts:
            here = os.open(name, flags, dir_fd=here)
            opened.callback(os.close, here)
            found = os.fstat(here)
            if found.st_dev != device:
                return
            if not _writable(found, identity):
                os.fchown(here, identity.uid, -1)
                log.info("%s in %s now belongs to user %d: a client uploads.", name, root, identity.uid)


def _writable(found: os.stat_result, identity: Identity) -> bool:
    """Whether the folder's mode lets the user in; one of the user's own is taken as the user has left it."""
    shift = 3 if found.st_gid in (identity.gid, *identity.groups) else 0
    return found.st_uid == identity.uid or (found.st_mode >> shift) & 0o3 == 0o3

"""The working folder: made where it is missing, and given to the user that the actions run as.

OpenHands' server changes the owner of everything in it at every start. Here only a folder that belongs to
someone else is handed over, which is once, and only what belonged to its former owner changes hands.
"""

from __future__ import annotations

import logging
import os
import stat
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

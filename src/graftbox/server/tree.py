"""Changes to the tree of folders. Blocking; raises `OSError` and `HTTPError`."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from graftbox.server.request import HTTPError


def remove(path: Path, recursive: bool) -> None:
    """A file, a link, an empty folder, or with ``recursive`` any folder."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    if path.resolve() == Path("/"):
        raise HTTPError(400, "The root folder can't be removed.")
    if recursive:
        shutil.rmtree(path)
    else:
        path.rmdir()


def make_folder(path: Path, parents: bool, exist_ok: bool, mode: int | None) -> None:
    path.mkdir(parents=parents, exist_ok=exist_ok)
    if mode is not None:
        path.chmod(mode)


def move_entry(source: Path, target: Path, overwrite: bool, parents: bool) -> None:
    """``source`` is at ``target`` afterwards, in one step where both are on one file system."""
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_over(source, target)
        remove(source, recursive=True)


def _copy_over(source: Path, target: Path) -> None:
    """A whole copy of ``source`` takes the place of ``target`` in one step."""
    draft = target.with_name(f".{target.name[:50]}.{os.urandom(6).hex()}")
    try:
        if stat.S_ISDIR(source.lstat().st_mode):
            shutil.copytree(source, draft, symlinks=True)
        else:
            shutil.copy2(source, draft, follow_symlinks=False)
        draft.rename(target)
    except shutil.Error as error:
        # copytree(3) collects what it could not copy: (source, copy, reason) of each.
        raise HTTPError(409, f"Nothing was moved: {error.args[0][0][2]}.") from error
    finally:
        if os.path.lexists(draft):
            remove(draft, recursive=True)

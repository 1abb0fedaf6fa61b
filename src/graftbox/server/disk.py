"""Opening files without waiting for them, and replacing them in one step. Blocking: off the event loop."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from graftbox.errors import GraftboxError, UsageError

_COPIED = 1024 * 1024
_WRITING = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_REFUSED = (errno.EPERM, errno.EACCES, errno.EBUSY, errno.EXDEV, errno.EROFS)


class SpecialFileError(UsageError):
    """A pipe, socket or device, whose reading or writing might never end."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is not a regular file. Use a command to work with it.")


def open_regular(path: Path) -> BinaryIO:
    """``path`` for reading, never waiting; raises `SpecialFileError`, `OSError`."""
    # Opening alone can do something to a device: look first, and again at what was opened.
    _check(path, path.stat())
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(handle))
    except (OSError, GraftboxError):
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _check(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise SpecialFileError(path)


class Draft:
    """New content for a file: written beside it, then put in its place in one step by `commit`.

    Mode, owner and extended attributes of a file that exists stay. A file with more than one name, or that
    may be written but not replaced, is written through: its space is taken first, so that a full disk leaves
    it as it was. ``target`` may be a link to the file. With ``replacing``, a file that may not be written is
    replaced by a new one. Raises `OSError` and `SpecialFileError`, all before anything was changed. A draft
    is used by one thread at a time, and closed by `commit` or `discard`.
    """

    def __init__(self, target: Path, replacing: bool = False) -> None:
        self.target = target.resolve()
        self.existing = self._writable(replacing)
        self.beside: Path | None = None
        self.through = False
        self.file = self._open_draft()

    def write(self, data: bytes) -> None:
        self.file.write(data)

    def commit(self, mode: int | None = None, exclusive: bool = False) -> os.stat_result:
        """Put it in place; ``mode`` in bits, None: as it was, or as the umask has it; what is now there.

        ``exclusive`` raises `FileExistsError` where a file has come into being.
        """
        try:
            self.file.flush()
            if mode is not None:
                os.fchmod(self.file.fileno(), mode)
            if self.through or not self._renamed(exclusive):
                self._write_through(mode)
            return self.target.stat()
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget it: nothing is left. May be called at any time, more than once."""
        # What could not be flushed is thrown away with it.
        with contextlib.suppress(OSError):
            self.file.close()
        if self.beside:
            with contextlib.suppress(OSError):
                self.beside.unlink()
            self.beside = None

    def __del__(self) -> None:
        # Whoever made it may have been cancelled before it got it.
        if hasattr(self, "file"):
            self.discard()

    def _writable(self, replacing: bool) -> os.stat_result | None:
        """The file that is there, once it is proved that it may be written; None: there will be a new one."""
        try:
            found = self.target.stat()
        except FileNotFoundError:
            return None
        _check(self.target, found)
        try:
            # Closed again at once: nobody can start a program while it is open for writing.
            handle = os.open(self.target, _WRITING)
        except OSError as error:
            if replacing and error.errno == errno.EACCES:
                return None
            # A program that is running can be replaced, though not written.
            if error.errno != errno.ETXTBSY:
                raise
            return found
        try:
            found = os.fstat(handle)
        finally:
            os.close(handle)
        _check(self.target, found)
        return found

    def _open_draft(self) -> BinaryIO:
        beside = self.target.with_name(f".{self.target.name[:50]}.{os.urandom(6).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            # A new file gets its mode from the kernel: umask and the folder's default ACL.
            handle = os.open(beside, flags, 0o666 if self.existing is None else 0o600)
        except OSError as error:
            if self.existing is None or error.errno not in _REFUSED:
                raise _named(error, self.target) from error
            import tempfile  # brings libcrypto in, which no start should wait for

            self.through = True
            return tempfile.TemporaryFile()
        self.beside = beside
        file = os.fdopen(handle, "w+b")
        if self.existing is not None:
            try:
                self.through = self.existing.st_nlink > 1 or not self._alike(handle, self.existing)
            except BaseException:
                file.close()
                beside.unlink()
                raise
        return file

    def _alike(self, handle: int, old: os.stat_result) -> bool:
        """Give the draft what the file has besides its content; False where that is not ours to give."""
        new = os.fstat(handle)
        try:
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                os.fchown(handle, old.st_uid, old.st_gid)
            os.fchmod(handle, stat.S_IMODE(old.st_mode))
        except OSError:
            return False
        with contextlib.suppress(OSError):
            for name in os.listxattr(self.target):
                with contextlib.suppress(OSError):
                    os.setxattr(handle, name, os.getxattr(self.target, name))
        return True

    def _renamed(self, exclusive: bool) -> bool:
        """Whether the draft took the file's place; a mount of its own can't be replaced."""
        assert self.beside is not None
        try:
            if exclusive and self._linked():
                return True
            self.beside.replace(self.target)
            self.beside = None
        except OSError as error:
            if self.existing is None or error.errno not in _REFUSED:
                raise _named(error, self.target) from error
            return False
        return True

    def _linked(self) -> bool:
        """Whether the draft got its name without replacing anything; some file systems have no links."""
        assert self.beside is not None
        try:
            os.link(self.beside, self.target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            return False
        return True

    def _write_through(self, mode: int | None) -> None:
        handle = os.open(self.target, _WRITING)
        with os.fdopen(handle, "wb") as file:
            _check(self.target, found := os.fstat(handle))
            if mode is not None:
                os.fchmod(handle, mode)
            size = self.file.seek(0, os.SEEK_END)
            if size > found.st_size:
                try:
                    os.posix_fallocate(handle, 0, size)
                except OSError as error:
                    os.ftruncate(handle, found.st_size)
                    raise _named(error, self.target) from error
            self.file.seek(0)
            while piece := self.file.read(_COPIED):
                file.write(piece)
            file.flush()
            os.ftruncate(handle, size)


def put(target: Path, content: bytes) -> os.stat_result:
    """Replace or make the file ``target``; see `Draft`."""
    draft = Draft(target)
    try:
        draft.write(content)
        return draft.commit()
    finally:
        draft.discard()


def _named(error: OSError, path: Path) -> OSError:
    """``error`` about ``path``, not about the draft's name."""
    return OSError(error.errno, error.strerror, str(path))

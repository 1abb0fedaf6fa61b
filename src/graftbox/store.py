"""The cache folder: content-addressed blobs, written whole or not at all.

Layout below ``$GRAFTBOX_CACHE`` (else ``$XDG_CACHE_HOME/graftbox``, else ``~/.cache/graftbox``)::

    blobs/sha256/<hex>        any immutable file, named by the digest of its bytes
    <kind>/…                  folders owned by one part each (bundles, trees, rootfs, sandboxes, …)
    locks/<name>.lock         advisory locks, held while something below <kind> is being made
    tmp/                      files and folders being written; anything here may be deleted
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from graftbox.errors import FormatError, StorageError, UsageError, VerificationError

CHUNK = 1 << 20
WEEK = 7 * 24 * 60 * 60.0


def cache_root() -> Path:
    """Where this machine keeps graftbox's cache; not created here."""
    if explicit := os.environ.get("GRAFTBOX_CACHE"):
        return Path(explicit).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graftbox"


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Re-raises the disk's own errors as `StorageError`, naming ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StorageError(
                f"No space left while writing below {path}. Free some space, or set GRAFTBOX_CACHE "
                "to a folder on a larger disk, and run the command again."
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise StorageError(
                f"Cannot write below {path}: {error.strerror}. Set GRAFTBOX_CACHE to a folder that you own."
            ) from error
        raise


def file_place(path: Path) -> Path:
    """Where a file that is made beside ``path`` and then takes its name goes: behind symbolic links.

    Raises `UsageError` for what is no file, such as a folder or a device, whose place nothing may take.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if os.path.lexists(place) and not place.is_file():
        raise UsageError(f"{path} is there and is no ordinary file; name another one.")
    return place


def digest_of(data: bytes) -> str:
    """``sha256:<hex>`` of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """``sha256:<hex>`` of a file's bytes, in bounded memory."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def remove_folder(path: Path) -> None:
    """Deletes a folder even while a dying child process still adds files to it."""
    gone = path.with_name(f"{path.name}.gone")
    with contextlib.suppress(OSError):
        path = path.rename(gone)  # under another name nobody finds it any more
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)  # what was being opened at the first time


class Store:
    """A cache folder. Safe for many processes at once; an interrupted write leaves only ``tmp/``."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()

    def folder(self, *parts: str) -> Path:
        """A folder below the root, created if missing."""
        path = self.root.joinpath(*parts)
        with storage_errors(self.root):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
                raise StorageError(
                    f"The cache cannot be at {self.root} ({error.strerror}). Set GRAFTBOX_CACHE to a folder "
                    "that you own."
                ) from error
        return path

    def blob_path(self, digest: str) -> Path:
        """Where the blob with this ``sha256:<hex>`` digest is or would be."""
        algorithm, _, hexdigits = digest.partition(":")
        if algorithm != "sha256" or len(hexdigits) != 64 or set(hexdigits) - set("0123456789abcdef"):
            raise FormatError(f"{digest!r} is not a sha256 digest (sha256: and 64 lower-case hex digits).")
        return self.root / "blobs" / "sha256" / hexdigits

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is here; with a ``size``, one that something has cut off since is not."""
        try:
            found = self.blob_path(digest).stat()
        except FileNotFoundError:
            return False
        return size is None or found.st_size == size

    def put(self, data: bytes) -> str:
        """Stores ``data`` and returns its digest."""
        return self.put_stream([data])

    def put_stream(self, chunks: Iterable[bytes], expected: str | None = None) -> str:
        """Stores a stream and returns its digest; a digest other than ``expected`` keeps nothing."""
        with self.temporary_file() as (stream, path):
            sha = hashlib.sha256()
            for chunk in chunks:
                sha.update(chunk)
                stream.write(chunk)
            stream.close()
            digest = "sha256:" + sha.hexdigest()
            if expected is not None and digest != expected:
                raise VerificationError(
                    f"Received {digest} where {expected} was expected; nothing was kept. Run the command "
                    "again; if it fails again, the source serves other bytes than were locked."
                )
            return self.adopt(path, digest)

    def adopt(self, path: Path, digest: str) -> str:
        """Moves a finished file, whose digest the caller has computed, into the store."""
        target = self.blob_path(digest)
        with storage_errors(self.root):
            self.folder("blobs", "sha256")
            path.chmod(0o644)
            path.replace(target)
        return digest

    @contextlib.contextmanager
    def temporary_file(self) -> Iterator[tuple[IO[bytes], Path]]:
        """An open file in ``tmp/``, deleted at the end unless it was moved away."""
        with storage_errors(self.root):
            path = self._temporary_path()
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(handle, "wb") as stream:
                    yield stream, path
            finally:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder in ``tmp/``, deleted at the end unless it was moved away."""
        with storage_errors(self.root):
            path = self._temporary_path()
            try:
                path.mkdir(0o700)
                yield path
            finally:
                remove_folder(path)

    def _temporary_path(self) -> Path:
        """A new name in ``tmp/``, known before anything is made: a Ctrl-C in between finds what to delete."""
        return self.folder("tmp") / secrets.token_hex(8)

    def used(self, path: Path) -> bool:
        """Notes that a file or folder here is used, by its ctime alone; False: there is none."""
        try:
            found = path.stat()
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        except FileNotFoundError:
            return False
        except OSError:  # a cache that somebody else fills
            return path.exists()
        return True

    def sweep(self, age: float = WEEK) -> None:
        """Deletes what killed processes left in ``tmp/`` more than ``age`` seconds ago."""
        for path in self.folder("tmp").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > age:
                    remove_folder(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Waits for and holds the named lock; the kernel releases it when the process dies."""
        path = self.folder("locks") / f"{name}.lock"
        with storage_errors(self.root):
            stream = path.open("w")
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

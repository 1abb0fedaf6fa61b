"""Fetches locked files into the store: in parallel, cached by hash, resumed, verified."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from graftbox.bundle import index, npm
from graftbox.bundle.download import Downloader, shown
from graftbox.bundle.lock import Entry, LockedArchive, LockedModule, LockedPackage, LockedWheel
from graftbox.bundle.progress import Progress, Silent
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sources import Sources
from graftbox.errors import GraftboxError, NotFoundError, TransportError, VerificationError
from graftbox.store import Store, digest_of_file, storage_errors

WORKERS = 8


def fetch(
    entries: Sequence[Entry],
    store: Store,
    sources: Sources,
    progress: Progress | None = None,
    downloader: Downloader | None = None,
    recipe: Recipe | None = None,
) -> dict[Entry, Path]:
    """The path of every entry's ``.deb``, ``.whl`` or ``.tgz`` in the store, downloading those not there yet.

    Locked files that no source has any more are one `NotFoundError` that names them all and how to lock
    ``recipe`` (the built-in one by default) anew. After any error, Ctrl-C included, what has arrived is
    kept and the next call goes on from there.
    """
    missing = {entry.sha256: entry for entry in entries if not is_here(entry, store)}
    if missing and recipe:
        sources = dataclasses.replace(sources, archives=recipe.archive_addresses)
    if missing:
        progress = progress or Silent()
        with downloader or Downloader(sources.authorities()) as connection:
            what = f"fetching {len(missing)} package{'s' * (len(missing) > 1)}"
            progress.start(what, sum(e.size for e in missing.values()))
            gone = _fetch_all(list(missing.values()), store, sources, connection, _Counter(progress))
            if gone:
                raise NotFoundError(_gone_message(gone, (recipe or Recipe.builtin()).lock_command, sources))
            progress.done()
    return {entry: store.blob_path(f"sha256:{entry.sha256}") for entry in entries}


def is_here(entry: Entry, store: Store) -> bool:
    """Whether the entry's file is in the store; one that was cut off there is fetched again."""
    return store.has(f"sha256:{entry.sha256}", entry.size)


def addresses(entry: Entry, sources: Sources, downloader: Downloader) -> Iterable[str]:
    """Where this entry may be had, in the order to try."""
    if isinstance(entry, LockedArchive):
        return [address] if (address := sources.archives.get(entry.sha256)) else []
    if isinstance(entry, LockedModule):
        return npm.addresses(entry, sources, downloader)
    if isinstance(entry, LockedWheel):
        files = index.locate(downloader, sources.indexes(), entry.name, entry.filename, entry.sha256)
        return [file.url for file in files]
    stamp = entry.date.replace("-", "").replace(":", "")
    roots = [*sources.mirrors(entry.archive), *sources.snapshots(entry.archive, stamp)]
    return [f"{root}/{entry.path}" for root in roots]


def _fetch_all(
    missing: list[Entry], store: Store, sources: Sources, downloader: Downloader, counter: _Counter
) -> list[Entry]:
    """Downloads largest first and returns what is gone; the first other error stops the rest."""
    gone: list[Entry] = []
    with concurrent.futures.ThreadPoolExecutor(WORKERS, thread_name_prefix="fetch") as pool:
        jobs = {
            pool.submit(_fetch_one, entry, store, sources, downloader, counter): entry
            for entry in sorted(missing, key=lambda entry: -entry.size)
        }
        try:
            for job in concurrent.futures.as_completed(jobs):
                try:
                    job.result()
                except NotFoundError:
                    gone.append(jobs[job])
        except BaseException:
            downloader.cancel()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return gone


def _gone_message(gone: list[Entry], lock_command: str, sources: Sources) -> str:
    packages = sorted({f"{e.name} {e.version}" for e in gone if isinstance(e, LockedPackage)})
    wheels = sorted({e.filename for e in gone if isinstance(e, LockedWheel)})
    modules = sorted({f"{e.name} {e.version}" for e in gone if isinstance(e, LockedModule)})
    archives = [e for e in gone if isinstance(e, LockedArchive)]
    sentences = [
        f"The archive {e.name} {e.version} is not at {shown(sources.archives.get(e.sha256, 'any address'))}. "
        "Correct the recipe, or put the file there."
        for e in archives
    ]
    if packages:
        sentences.append(
            f"The mirror no longer has {len(packages)} locked package{'s' * (len(packages) > 1)}: "
            f"{', '.join(packages)}. Run `{lock_command} --update-missing` to lock what replaced "
            "what is gone, or name a snapshot archive (--snapshot, GRAFTBOX_SNAPSHOT)."
        )
    if wheels:
        sentences.append(
            f"No package index has {', '.join(wheels)} with the locked hash. Run `{lock_command} "
            "--update-missing`, or name an index that has them (--index-url, GRAFTBOX_INDEX_URL)."
        )
    if modules:
        sentences.append(
            f"No npm registry has {', '.join(modules)}. Run `{lock_command} --update-missing`, or name a "
            "registry that has them (--npm-registry, GRAFTBOX_NPM_REGISTRY)."
        )
    return " ".join(sentences)


def _fetch_one(
    entry: Entry, store: Store, sources: Sources, downloader: Downloader, counter: _Counter
) -> None:
    """Puts one entry's file into the store, from the first address that gives the locked bytes."""
    failure: GraftboxError | None = None
    with _part(store, entry, downloader) as part:
        if part is None:  # another process has fetched it meanwhile
            counter(entry.size)
            return
        counter(part.seek(0, os.SEEK_END))
        for url in addresses(entry, sources, downloader):
            try:
                _complete(part, url, entry, store, downloader, counter)
                return
            except NotFoundError as error:
                failure = failure or error
            except (TransportError, VerificationError) as error:
                failure = error
    raise failure or NotFoundError(f"No source has {entry.name}.")


def _complete(
    part: IO[bytes], url: str, entry: Entry, store: Store, downloader: Downloader, counter: _Counter
) -> None:
    """Downloads into ``part`` and moves it into the store once size and hash are the locked ones."""
    resumed = part.seek(0, os.SEEK_END) > 0
    path = Path(part.name)
    while True:
        try:
            downloader.save(url, part, entry.size, counter)
            part.flush()
            if digest_of_file(path) == f"sha256:{entry.sha256}":
                store.adopt(path, f"sha256:{entry.sha256}")
                return
        except VerificationError:
            _empty(part, counter)
            raise
        remedy = _remedy(entry, path)
        _empty(part, counter)
        if not resumed:
            raise VerificationError(
                f"{entry.filename} from {shown(url)} is not what was locked: its sha256 differs; nothing was "
                f"kept. {remedy}"
            )
        resumed = False  # the beginning, from an earlier run, may have been the wrong part


def _remedy(entry: Entry, path: Path) -> str:
    if isinstance(entry, LockedArchive):
        found = digest_of_file(path).removeprefix("sha256:")
        return f"The recipe says {entry.sha256}, and it is {found}: correct the recipe if you trust it."
    return "Use another mirror or index, or run `graftbox lock` if you trust the new file."


def _empty(part: IO[bytes], counter: _Counter) -> None:
    counter(-part.seek(0, os.SEEK_END))
    part.truncate(0)
    part.seek(0)


@contextlib.contextmanager
def _part(store: Store, entry: Entry, downloader: Downloader) -> Iterator[IO[bytes] | None]:
    """The unfinished file ``tmp/<sha256>.part``, locked against other processes; None once it is done."""
    path = store.folder("tmp") / f"{entry.sha256}.part"
    with storage_errors(store.root):
        while True:
            downloader.check()
            with path.open("ab+") as stream:
                _lock(stream, downloader)
                if not _is_same(stream, path):
                    if is_here(entry, store):
                        yield None
                        return
                    continue  # whoever held it has moved or deleted it: open it anew
                try:
                    yield None if is_here(entry, store) else stream
                finally:
                    if _is_same(stream, path) and (path.stat().st_size == 0 or is_here(entry, store)):
                        path.unlink()
                return


def _lock(stream: IO[bytes], downloader: Downloader) -> None:
    """Waits for the file's lock, and gives up when the work is cancelled."""
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            downloader.check(pause=0.05)


def _is_same(stream: IO[bytes], path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(stream.fileno()).st_ino
    except FileNotFoundError:
        return False


class _Counter:
    """Adds up what arrives in many threads and passes it on to one `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._guard = threading.Lock()

    def __call__(self, amount: int) -> None:
        if amount:
            with self._guard:
                self._progress.advance(amount)

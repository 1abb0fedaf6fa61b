"""``graftbox graft --to-repo``: one base or a list of them, into tags made of content."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from graftbox.cli.status import say
from graftbox.errors import UsageError

if TYPE_CHECKING:
    from graftbox.cli.sbom import Additions
    from graftbox.image.batch import Tally
    from graftbox.image.reuse import Outcome
    from graftbox.image.tags import Choice
    from graftbox.image.transports import Access
    from graftbox.store import Store

ON_A_TERMINAL = 0.2
IN_A_LOG = 15.0
"""Seconds between two lines of progress."""


def one(
    base: str, to_repo: str, choice: Choice, store: Store, access: Access, naming: str, as_json: bool
) -> Outcome:
    """Grafts one base into a repository, prints the image's name and returns what was done."""
    from graftbox.image.reference import parse
    from graftbox.image.reuse import obtain
    from graftbox.image.tags import repository, repository_for

    reference, target = parse(base), repository(to_repo)
    with access.shared(parallel=8) as registries:
        outcome = obtain(
            reference,
            repository_for(reference, target, naming),
            choice,
            store,
            replace(access, registries=registries),
            progress=lambda line: print(line, file=sys.stderr),
        )
    if as_json:
        click.echo(json.dumps(_facts(outcome)))
        return outcome
    click.echo(outcome.image)
    for note in outcome.notes:
        say(note)
    sent = f"{outcome.layers_sent} layers, {outcome.bytes_sent / 1e6:.2f} MB sent"
    click.echo(f"{outcome.digest}  {outcome.status}, {sent}, {outcome.seconds:.3f} s")
    return outcome


def many(
    listed: str,
    to_repo: str,
    choice: Choice,
    store: Store,
    access: Access,
    jobs: int,
    shard: str,
    naming: str,
    added: Additions | None = None,
) -> int:
    """Grafts a list of bases; one JSON object a line for each. Returns the exit code."""
    from graftbox.image import batch
    from graftbox.image.tags import repository

    target, part = repository(to_repo), batch.Shard.parse(shard)
    tally = batch.Tally()
    with access.shared(jobs) as registries, _opened(listed) as lines:
        total = None
        if lines.seekable():
            total = sum(1 for _ in batch.bases(lines, part))
            lines.seek(0)
        shared = replace(access, registries=registries)
        work = batch.worker(target, naming, choice, store, shared)
        if added is not None:
            work = _adding(work, added, choice, shared)
        progress = _Progress(tally, total)
        try:
            for outcome in batch.run(batch.bases(lines, part), work, jobs, registries):
                tally.add(outcome)
                sys.stdout.write(json.dumps(_facts(outcome)) + "\n")
                sys.stdout.flush()
                progress.show()
                if tally.is_hopeless:
                    break
        except KeyboardInterrupt:
            progress.end()
            say(f"interrupted after {tally.line(total)}. The same command again goes on from here.")
            return 130
        progress.end()
    for line in tally.summary():
        say(line)
    return 1 if tally.count["failed"] else 0


def _adding(
    work: Callable[[str], Outcome], added: Additions, choice: Choice, access: Access
) -> Callable[[str], Outcome]:
    """``work``, and then what is attached to its image; one to which it cannot be has failed."""
    from graftbox.errors import GraftboxError
    from graftbox.image.reference import parse
    from graftbox.image.reuse import FAILED, MADE

    def deal_with(base: str) -> Outcome:
        outcome = work(base)
        if outcome.status == FAILED:
            return outcome
        start = time.perf_counter()
        try:
            image = parse(outcome.image)
            added.add(image, outcome.digest, choice.bundles, access, outcome.status == MADE)
        except GraftboxError as error:
            outcome = replace(outcome, status=FAILED, error=f"The image is there, but: {error}")
        return replace(outcome, seconds=round(outcome.seconds + time.perf_counter() - start, 6))

    return deal_with


def into_docker(listed: str, repository: str, choice: Choice, store: Store, access: Access) -> int:
    """Grafts a list of bases into the Docker daemon; one JSON object a line. Returns the exit code."""
    from graftbox.image import batch, daemon_batch
    from graftbox.image.tags import repository as parsed

    target, tally = parsed(repository), batch.Tally()
    with _opened(listed) as lines:
        bases = batch.bases(lines, batch.Shard())
        for outcome in daemon_batch.load(bases, target, choice, store, access):
            tally.add(outcome)
            sys.stdout.write(json.dumps(_facts(outcome)) + "\n")
            sys.stdout.flush()
    for line in tally.summary():
        say(line)
    return 1 if tally.count["failed"] else 0


@contextlib.contextmanager
def _opened(listed: str) -> Iterator[IO[str]]:
    if listed == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        yield sys.stdin
        return
    try:
        # What is no text is a base that fails, like any other wrong line.
        with Path(listed).open(encoding="utf-8", errors="replace") as stream:
            yield stream
    except OSError as error:
        if error.filename != listed:
            raise
        raise UsageError(f"Cannot read the list {listed}: {error.strerror}.") from error


def _facts(outcome: Outcome) -> dict[str, object]:
    """The object that is printed: without what does not apply."""
    return {key: value for key, value in asdict(outcome).items() if value or key == "seconds"}


class _Progress:
    """One line on standard error: redrawn on a terminal, now and then a new one elsewhere."""

    def __init__(self, tally: Tally, total: int | None) -> None:
        self._tally, self._total = tally, total
        self._live = sys.stderr.isatty()
        self._shown = time.monotonic()

    def show(self) -> None:
        now = time.monotonic()
        if now - self._shown < (ON_A_TERMINAL if self._live else IN_A_LOG):
            return
        self._shown = now
        start, end = ("\r\x1b[K", "") if self._live else ("", "\n")
        print(f"{start}graftbox: {self._tally.line(self._total)}", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

"""Many bases at once: a bounded number under way, each failure its own, nothing kept of what is finished.

There is no record of progress to lose: what is finished is in the registry, and finding it costs one HEAD.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

from graftbox.errors import GraftboxError, UsageError
from graftbox.image.connection import Registries
from graftbox.image.reference import ImageName, parse
from graftbox.image.reuse import FAILED, MADE, PRESENT, Memory, Outcome, obtain
from graftbox.image.tags import Choice, repository_for
from graftbox.image.transports import Access
from graftbox.store import Store

HOPELESS = 20
"""So many equal errors in a row, and nothing that worked between them: the rest would fail the same way."""
ERRORS_SHOWN = 10

_OWN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""What the same error has of its own each time: the number of an upload."""


@dataclass(frozen=True)
class Shard:
    """The part ``number`` (from 1) of ``count`` parts of a list, equal on every machine."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads ``i/n``."""
        number, slash, count = text.partition("/")
        if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
            raise UsageError(f"{text!r} is no shard: write 1/4 to 4/4 for the parts of four.")
        return cls(int(number), int(count))

    def holds(self, base: str) -> bool:
        """By the name's hash, so that a list that grows moves nothing to another shard."""
        return int(hashlib.sha256(base.encode()).hexdigest()[:8], 16) % self.count == self.number - 1


def bases(lines: Iterable[str], shard: Shard) -> Iterator[str]:
    """The references of a list: one a line; blank lines and ``#`` comments are left out."""
    for line in lines:
        base = line.split(" #", 1)[0].strip()
        if base and not base.startswith("#") and shard.holds(base):
            yield base


@dataclass
class Tally:
    """What a run has done so far."""

    count: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    layers_sent: int = 0
    bytes_sent: int = 0
    started: float = field(default_factory=time.monotonic)
    repeated: int = 0
    """How many of the last results in a row failed with the same error."""
    last_error: str = ""

    def add(self, outcome: Outcome) -> None:
        self.count[outcome.status] += 1
        self.layers_sent += outcome.layers_sent
        self.bytes_sent += outcome.bytes_sent
        if outcome.status != FAILED:
            self.repeated, self.last_error = 0, ""
            return
        error = _OWN.sub("…", outcome.error)
        self.repeated = self.repeated + 1 if error == self.last_error else 1
        self.last_error = error
        if error in self.errors or len(self.errors) < ERRORS_SHOWN:
            self.errors[error] += 1

    @property
    def done(self) -> int:
        return sum(self.count.values())

    @property
    def is_hopeless(self) -> bool:
        return self.repeated >= HOPELESS

    def line(self, total: int | None = None) -> str:
        """How far the run is, for people."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        of = f" of {total}" if total is not None else ""
        return (
            f"{self.done}{of} images: {self.count[MADE]} made, {self.count[PRESENT]} were there, "
            f"{self.count[FAILED]} failed; {self.done / seconds:.0f}/s"
        )

    def summary(self) -> list[str]:
        """The end of the run, for people: what was done, and what went wrong how often."""
        seconds = time.monotonic() - self.started
        lines = [
            f"{self.line()}, {seconds:.1f} s; {self.layers_sent} layers, {self.bytes_sent / 1e6:.2f} MB sent"
        ]
        lines += [f"  {number} x {error}" for error, number in self.errors.most_common()]
        if self.count[FAILED] > sum(self.errors.values()):
            lines.append(
                f"  {self.count[FAILED] - sum(self.errors.values())} further ones are in the output."
            )
        if self.is_hopeless:
            lines.append(f"Stopped: the last {self.repeated} images failed for the same reason.")
        if self.count[FAILED]:
            lines.append("Run the same command again for the rest; finished images are not made again.")
        return lines


def worker(
    target: ImageName, naming: str, choice: Choice, store: Store, access: Access
) -> Callable[[str], Outcome]:
    """The function that deals with one base; it never raises what belongs to one base only."""
    memory = Memory()

    def deal_with(base: str) -> Outcome:
        start = time.perf_counter()
        try:
            reference = parse(base)
            repository = repository_for(reference, target, naming)
            return obtain(reference, repository, choice, store, access, memory)
        except GraftboxError as error:
            text = str(error)
        except Exception as error:
            # One odd image must not end the other thousands; the words say that it is our fault.
            text = f"graftbox itself failed ({type(error).__name__}: {error}). Please report this."
        return Outcome(base, FAILED, seconds=round(time.perf_counter() - start, 6), error=text)

    return deal_with


def run(
    items: Iterable[str], work: Callable[[str], Outcome], jobs: int, registries: Registries
) -> Generator[Outcome]:
    """The outcomes as they come, ``jobs`` at a time; never more than twice as many are held.

    When the caller stops reading, or is interrupted, what is under way ends and nothing new begins.
    """
    waiting = iter(items)
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="graft")
    done: SimpleQueue[Future[Outcome]] = SimpleQueue()
    under_way = 0
    try:
        while True:
            for base in itertools.islice(waiting, 2 * jobs - under_way):
                pool.submit(work, base).add_done_callback(done.put)
                under_way += 1
            if not under_way:
                return
            future = done.get()
            under_way -= 1
            yield future.result()
    finally:
        if under_way:
            registries.stop()
        pool.shutdown(wait=True, cancel_futures=True)

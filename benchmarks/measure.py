"""Times things side by side and prints them as one Markdown table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row: samples of one quantity, and the target it is held against, in the same unit."""

    what: str
    unit: str
    samples: tuple[float, ...]
    target: float | None = None
    at_least: bool = False
    detail: bool = False
    """Printed, but not written into the README."""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def row(self) -> str:
        target = "" if self.target is None else f"{'≥' if self.at_least else '≤'} {self.target:g} {self.unit}"
        spread = f"{_short(min(self.samples))} to {_short(max(self.samples))}, n={len(self.samples)}"
        return f"| {self.what} | {_short(self.median)} {self.unit} | {spread} | {target} |"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def brief(title: str, figures: Sequence[Figure]) -> str:
    """The table without details."""
    return table(title, [figure for figure in figures if not figure.detail])


def table(title: str, figures: Sequence[Figure]) -> str:
    """A Markdown table of medians, spreads and targets."""
    head = [f"### {title}", "", "| what | median | spread | target |", "|---|---|---|---|"]
    return "\n".join([*head, *(figure.row() for figure in figures), ""])


def timed(step: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def interleaved(steps: Sequence[Callable[[], float]], runs: int, warmup: int = 1) -> list[tuple[float, ...]]:
    """What ``runs`` calls of each step return, taken in turn so that drift of the machine hits all alike."""
    for _ in range(warmup):
        for step in steps:
            step()
    rounds = [[step() for step in steps] for _ in range(runs)]
    return [tuple(samples) for samples in zip(*rounds, strict=True)]

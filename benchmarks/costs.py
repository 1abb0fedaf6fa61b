"""What images cost: seconds, bytes sent and disk, at the counts that were made and beyond."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

COUNTS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Point:
    """What so many images cost together: seconds, and bytes."""

    count: int
    seconds: float
    sent: float
    registry: float
    local: float

    def __add__(self, other: Point) -> Point:
        return Point(*(a + b for a, b in zip(self._all, other._all, strict=True)))  # type: ignore[arg-type]  # count is int

    def times(self, factor: float) -> Point:
        return Point(*(value * factor for value in self._all))  # type: ignore[arg-type]  # count is int

    @property
    def _all(self) -> tuple[float, ...]:
        return self.count, self.seconds, self.sent, self.registry, self.local


@dataclass(frozen=True)
class Result:
    """One way's points at the counts that it reached, and the time of each image (a mean, in a batch)."""

    what: str
    points: list[Point] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def each(self) -> Point:
        """What one more image costs, after the first."""
        first, last = self.points[0], self.points[-1]
        if last.count == first.count:
            return first
        return (last + first.times(-1)).times(1 / (last.count - first.count))

    def at(self, count: int) -> tuple[Point, bool]:
        """The cost of ``count`` images, and whether it was measured."""
        for point in self.points:
            if point.count == count:
                return point, True
        return self.points[-1] + self.each.times(count - self.points[-1].count), False

    def row(self) -> str:
        each = self.each
        typical = statistics.median(self.seconds[1:] or self.seconds)
        cells = [self.what, str(self.points[-1].count), _seconds(typical), _bytes(each.sent)]
        return line([*cells, _bytes(each.registry), _bytes(each.local)])

    def totals(self) -> str:
        cells = [self.what]
        for count in COUNTS:
            point, measured = self.at(count)
            text = f"{_seconds(point.seconds)}, {_bytes(point.sent)}, {_bytes(point.registry + point.local)}"
            cells.append(text if measured else f"≈ {text}")
        return line(cells)


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"


def _bytes(value: float) -> str:
    """Decimal units; what programs write down about themselves can make a difference negative: none."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.2g} {unit}" if value < 10 * size else f"{value / size:.0f} {unit}"
    return "0" if value < 1 else f"{value:.0f} B"

"""What the benchmarks write down; what they measure is not looked at here."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import ways
from benchmarks.costs import Point, Result
from benchmarks.measure import Figure, brief, table
from benchmarks.ways import Comparison

RESULT = Result("a way", [Point(1, 2.0, 3e6, 4e6, 5e6), Point(10, 11.0, 12e6, 13e6, 5e6)], [2.0, 1.0])


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ways, "_lacking", lambda way: [])
    monkeypatch.setattr(ways, "KEPT", tmp_path / "build/ways.json")


def test_a_readme_leaves_out_details() -> None:
    figures = [Figure("one", "ms", (1.0,)), Figure("two", "ms", (2.0,), detail=True)]
    assert "two" in table("title", figures)
    assert "one" in brief("title", figures)
    assert "two" not in brief("title", figures)


def test_results_of_an_interrupted_run_are_there_for_the_next_one() -> None:
    assert Comparison.kept() == Comparison((), ())
    Comparison((RESULT,), (0.5, 1.0), ("another: broke",), ("a third",)).keep()
    # What failed or was not reached is measured again.
    assert Comparison.kept() == Comparison((RESULT,), (0.5, 1.0))


def test_a_table_says_what_was_made_what_is_extrapolated_and_what_is_missing() -> None:
    text = ways.table("The ways", Comparison((RESULT,), (0.5, 1.0), ("another: broke",), ("a third",)))
    assert "| a way | 10 | 1 s | 1 MB | 1 MB | 0 |" in text
    assert "| a way | 2 s, 3 MB, 9 MB | 11 s, 12 MB, 18 MB | ≈ 101 s, 102 MB, 108 MB |" in text
    assert "load average 0.5 to 1.0" in text
    assert "Failed: another: broke" in text
    assert "Not measured yet (`--resume`): a third" in text

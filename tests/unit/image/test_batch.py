"""Lists of bases: what is read from them, what is under way, what is said at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from graftbox.errors import UsageError
from graftbox.image.batch import HOPELESS, Shard, Tally, bases, run
from graftbox.image.connection import Registries
from graftbox.image.reuse import FAILED, MADE, PRESENT, Outcome


def test_a_list_has_comments_and_blank_lines() -> None:
    lines = ["# all of them\n", "\n", "  ubuntu:22.04  \n", "alpine # small\n", "x/y@sha256:1"]
    assert list(bases(lines, Shard())) == ["ubuntu:22.04", "alpine", "x/y@sha256:1"]


def test_shards_are_disjoint_and_together_everything() -> None:
    names = [f"image{number}" for number in range(500)]
    parts = [list(bases(names, Shard.parse(f"{number}/3"))) for number in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(len(part) > 100 for part in parts)


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "a/b", "-1/3", "1/3/5"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="shard"):
        Shard.parse(text)


def test_no_more_is_taken_from_the_list_than_is_under_way() -> None:
    taken: list[int] = []

    def names() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield str(number)

    found = run(names(), lambda base: Outcome(base, MADE), 4, Registries())
    for _ in range(10):
        next(found)
    assert len(taken) < 30
    found.close()


def test_every_base_has_one_outcome_in_any_order() -> None:
    outcomes = list(run(map(str, range(200)), lambda base: Outcome(base, PRESENT), 8, Registries()))
    assert sorted(int(outcome.base) for outcome in outcomes) == list(range(200))


def test_a_reader_that_stops_ends_the_waiting_of_the_others() -> None:
    registries, begun, stopped = Registries(), threading.Event(), list[bool]()

    def slow(base: str) -> Outcome:
        if base != "0":
            begun.set()
            stopped.append(registries.host("reg.example")._stop.wait(60))
        return Outcome(base, MADE)

    found = run(map(str, range(50)), slow, 4, registries)
    assert next(found).base == "0"
    assert begun.wait(60)
    found.close()
    assert stopped
    assert all(stopped)


def test_the_summary_counts_and_explains() -> None:
    tally = Tally()
    for outcome in (
        Outcome("a", MADE, layers_sent=2, bytes_sent=3_000_000),
        Outcome("b", PRESENT),
        Outcome("c", FAILED, error="no such thing"),
        Outcome("d", FAILED, error="no such thing"),
    ):
        tally.add(outcome)
    first, *rest = tally.summary()
    assert first.startswith("4 images: 1 made, 1 were there, 2 failed")
    assert "2 layers, 3.00 MB sent" in first
    assert rest[0] == "  2 x no such thing"
    assert "again" in rest[-1]


def test_many_different_errors_are_not_all_kept() -> None:
    tally = Tally()
    for number in range(100):
        tally.add(Outcome(str(number), FAILED, error=f"error {number}"))
    assert len(tally.errors) == 10
    assert any("90 further" in line for line in tally.summary())
    assert not tally.is_hopeless


def test_errors_that_differ_in_the_number_of_an_upload_are_the_same() -> None:
    tally = Tally()
    for number in range(HOPELESS):
        error = f"500 _uploads/{number:08x}-0000-4000-8000-000000000000/startedat: disk full"
        tally.add(Outcome(str(number), FAILED, error=error))
    assert tally.is_hopeless
    assert len(tally.errors) == 1


def test_the_same_error_again_and_again_is_hopeless_unless_something_works() -> None:
    tally = Tally()
    for number in range(HOPELESS - 1):
        tally.add(Outcome(str(number), FAILED, error="refused"))
    tally.add(Outcome("x", PRESENT))
    assert not tally.is_hopeless
    for number in range(HOPELESS):
        tally.add(Outcome(str(number), FAILED, error="refused"))
    assert tally.is_hopeless
    assert any("Stopped" in line for line in tally.summary())

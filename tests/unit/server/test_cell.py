"""What is kept of a cell's output, and how it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from graftbox.server.kernel.cell import HEAD, PICTURES, TAIL, Cell, Clear, Data, Ended, Stream, Trouble, plain


def told(*events: Stream | Data | Trouble | Clear, then: Callable[[Cell], None] | None = None) -> Cell:
    async def make() -> Cell:
        cell = Cell("code")
        for event in events:
            cell.add(event)
        if then:
            then(cell)
        return cell

    return asyncio.run(make())


def test_prints_are_joined_and_streams_stay_in_order() -> None:
    cell = told(Stream("stdout", "a"), Stream("stdout", "b"), Stream("stderr", "c"), Stream("stdout", "d"))
    assert [(each.name, each.text) for each in cell.outputs if isinstance(each, Stream)] == [
        ("stdout", "ab"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]


def test_endless_output_keeps_its_beginning_and_its_end() -> None:
    pieces = [Stream("stdout", f"{number:07}\n") for number in range(200_000)]
    cell = told(Stream("stdout", "first\n"), *pieces)
    text = cell.text()
    assert text.startswith("first\n0000000\n")
    assert text.endswith("0199999\n")
    assert len(text) <= HEAD + TAIL + 100
    assert cell.dropped + sum(output.size for output in cell.outputs) == 6 + 200_000 * 8


def test_too_many_pictures_are_replaced_by_a_note() -> None:
    picture = Data({"image/png": "A" * (PICTURES // 4), "text/plain": "<Figure>"})
    cell = told(*[picture] * 5)
    assert len(cell.pictures()) < 5
    assert "was left out" in cell.text()


def test_cleared_output_is_forgotten_at_once_or_with_the_next() -> None:
    assert told(Stream("stdout", "a"), Clear(), Stream("stdout", "b")).text() == "b"
    assert told(Stream("stdout", "a"), Clear(wait=True)).text() == "a"
    assert told(Stream("stdout", "a"), Clear(wait=True), Stream("stdout", "b")).text() == "b"


def test_a_display_is_updated_where_it_stands() -> None:
    cell = told(
        Data({"text/plain": "1"}, display_id="x"),
        Stream("stdout", "|"),
        then=lambda cell: cell.update(Data({"text/plain": "2"}, display_id="x")),
    )
    assert cell.text() == "2|"


def test_the_interrupt_of_a_timeout_is_not_shown_but_others_are() -> None:
    def time_out(cell: Cell) -> None:
        cell.timed_out = True
        cell.add(Trouble("KeyboardInterrupt", "", "interrupted"))
        cell.add(Trouble("ValueError", "", "from a handler"))

    assert told(then=time_out).text() == "from a handler"


def test_control_sequences_and_overwritten_lines_are_not_told() -> None:
    assert plain("\x1b[31mred\x1b[0m \x1b]0;title\x07plain") == "red plain"
    assert plain("1%\r50%\r100%\ndone\r\n") == "100%\ndone\r\n"


def test_a_value_is_told_in_its_plainest_form() -> None:
    assert Data({"text/html": "<b>x</b>", "text/plain": "x"}).text == "x"
    assert Data({"text/html": "<b>x</b>"}).text == "<b>x</b>"
    assert Data({"application/json": {"a": 1}}).text == '{"a": 1}'
    assert Data({"image/jpeg": "QUJD\n"}).picture == "data:image/jpeg;base64,QUJD"


def test_a_follower_gets_everything_once_whenever_it_comes() -> None:
    async def follow() -> list[str]:
        cell = Cell("code")
        cell.add(Stream("stdout", "before "))
        heard: list[str] = []

        async def listen() -> None:
            async for event in cell.follow():
                assert isinstance(event, Stream)
                heard.append(event.text)

        listening = asyncio.ensure_future(listen())
        await asyncio.sleep(0)
        cell.add(Stream("stdout", "while "))
        await asyncio.sleep(0)
        cell.add(Stream("stdout", "last"))
        cell.end(Ended("ok"))
        await asyncio.wait_for(listening, 60)
        return heard

    assert "".join(asyncio.run(follow())) == "before while last"

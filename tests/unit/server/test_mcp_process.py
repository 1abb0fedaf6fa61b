"""Processes that speak in lines, and their ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from graftbox.server.mcp import process as module
from graftbox.server.mcp.process import LineProcess, LineTooLongError

ENVIRONMENT = {b"PATH": os.environb[b"PATH"]}


def running(script: str, work: Callable[[LineProcess], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        process = await LineProcess.start(("sh", "-c", script), ENVIRONMENT, "/", {})
        try:
            return await work(process)
        finally:
            await process.stop()

    return asyncio.run(run())


async def every_line(process: LineProcess) -> list[bytes]:
    lines = []
    while more := await process.lines():
        lines += more
    return lines


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_lines_arrive_whole_and_in_order_however_many_they_are() -> None:
    script = f"{sys.executable} -c 'for n in range(200000): print(n)'; printf unfinished"
    lines = running(script, every_line)
    assert lines == [str(number).encode() for number in range(200000)]


def test_a_reader_that_is_slow_holds_the_process_back() -> None:
    async def work(process: LineProcess) -> int:
        await asyncio.sleep(0.5)
        return len(process._output)

    assert running("yes", work) < 2 * module._BUFFER


def test_what_is_written_is_read_by_the_process() -> None:
    async def work(process: LineProcess) -> list[bytes]:
        await process.write(b"a\nb\n")
        return await process.lines() + await process.lines()

    assert running("read x; echo got $x; sleep 0.1; read x; echo got $x; sleep 9", work) == [
        b"got a",
        b"got b",
    ]


def test_a_line_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 200_000)

    async def work(process: LineProcess) -> None:
        with pytest.raises(LineTooLongError):
            await process.lines()

    running("tr '\\0' x < /dev/zero", work)


def test_the_last_words_are_kept_and_no_more() -> None:
    async def work(process: LineProcess) -> str:
        await process.stop()
        return process.errors

    errors = running("seq 1 5000 >&2; echo the end >&2", work)
    assert errors.endswith("4999\n5000\nthe end")
    assert len(errors) <= module.ERRORS_KEPT
    assert errors.splitlines()[0].isdigit()


def test_the_end_is_noticed_while_a_child_still_holds_the_pipes() -> None:
    async def work(process: LineProcess) -> None:
        child, *lines = await every_line(process)
        assert lines == [b"last"]
        assert is_alive(int(child))

    running("trap '' TERM; sleep 60 & echo $!; echo last", work)


@pytest.mark.parametrize(
    "script",
    ["sleep 60 & echo $!; cat", "trap '' TERM; sleep 60 & echo $!; while :; do sleep 60; done"],
)
def test_stopping_ends_the_process_and_its_children(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)

    async def work(process: LineProcess) -> tuple[int, int]:
        (child,) = await process.lines()
        return process.pid, int(child)

    for pid in running(script, work):
        # The child is not ours to wait for: it may still be on its way out.
        end = time.monotonic() + 60
        while is_alive(pid):
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_program_that_is_not_there_is_an_os_error() -> None:
    async def start() -> None:
        with pytest.raises(FileNotFoundError):
            await LineProcess.start(("/no/such/program",), ENVIRONMENT, "/", {})

    asyncio.run(start())

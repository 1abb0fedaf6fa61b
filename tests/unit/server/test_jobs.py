"""Background commands where the kernel lacks what is usual."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from graftbox.server.environment import Environment
from graftbox.server.identity import Identity
from graftbox.server.jobs import Job, Jobs, Order
from graftbox.server.limits import Limits


def refused(*_: object) -> int:
    raise OSError(38, "Function not implemented")


def test_the_end_of_many_commands_is_seen_without_pidfd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pidfd_open", refused)
    environment = Environment((b"PATH=" + os.environb[b"PATH"],))

    async def run() -> list[int | None]:
        jobs = Jobs(environment, str(tmp_path), Limits())

        async def one(number: int) -> Job:
            argv = ["sh", "-c", f"sleep 0.2; exit {number}"]
            return await jobs.start(Order(argv, argv, "/", environment.entries, Identity.own()))

        started = [await one(number) for number in range(20)]
        for job in started:
            await asyncio.wait_for(job.ended.wait(), 60)
        codes = [job.exit_code for job in started]
        await jobs.close()
        return codes

    assert asyncio.run(run()) == list(range(20))

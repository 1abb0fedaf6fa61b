from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from graftbox.server.ending import end_of, exit_of


@pytest.mark.parametrize("old_kernel", [False, True])
@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -9 $$", -9), ("sleep 0.1", 0)])
def test_the_end_of_a_child_is_heard_of_and_left_to_be_reaped(
    script: str, status: int, old_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(pid: int) -> int:
        raise OSError("no such system call")

    if old_kernel:
        monkeypatch.setattr(os, "pidfd_open", missing)
    process = subprocess.Popen(["sh", "-c", script])
    assert asyncio.run(exit_of(process.pid)) == status
    assert process.wait() == status


def test_a_child_that_was_reaped_already_has_ended() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    asyncio.run(end_of(process.pid))

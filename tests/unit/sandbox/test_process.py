"""Processes told apart from others with the same pid."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

from graftbox.sandbox.process import ProcessId

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


def test_a_process_is_itself_until_it_ends() -> None:
    process = subprocess.Popen(["sleep", "60"])
    known = ProcessId.of(process.pid)
    assert known is not None
    assert known.runs()
    known.end(10)
    assert not known.runs()  # a zombie no longer runs
    assert process.wait() == -signal.SIGTERM
    assert ProcessId.of(process.pid) is None


def test_another_process_with_the_same_pid_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        known = ProcessId.of(process.pid)
        assert known is not None
        for other in (
            dataclasses.replace(known, started=known.started - 1),
            dataclasses.replace(known, boot="an earlier one"),
        ):
            assert not other.runs()
            other.end(0)
        assert process.poll() is None
        process.kill()


def test_a_process_that_ignores_the_request_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    known = ProcessId.of(process.pid)
    assert known is not None
    known.end(0.1)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def test_a_name_with_parentheses_and_blanks_is_read_right() -> None:
    known = ProcessId.of(os.getpid())
    assert known is not None
    assert known.runs()

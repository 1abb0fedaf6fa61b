"""Processes that outlive the command that started them, recognised again without mistaking a reused pid."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """One process, for ever: a pid is reused, a pid with its start time on one boot is not."""

    pid: int
    started: int
    """Clock ticks since boot (field 22 of proc(5)'s stat)."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process with this pid now; None if there is none."""
        started = _started(pid)
        return None if started is None else cls(pid, started, _boot())

    def runs(self) -> bool:
        """Whether exactly this process still lives (a zombie does not)."""
        return self.boot == _boot() and _started(self.pid) == self.started

    def end(self, grace: float) -> None:
        """Asks the process to end, waits up to ``grace`` seconds, then kills it and waits for that."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle is fixed to one process; the check after opening it makes it the right one.
            if not self.runs():
                return
            for what, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
                signal.pidfd_send_signal(handle, what)
                if select.select([handle], [], [], seconds)[0]:
                    return
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may itself hold blanks and parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])

"""The key stays out of sight of other processes, also of the same user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.unit.server.conftest import until

SOURCE = Path(__file__).parents[3] / "src"

LOOK = """
import os, subprocess
from graftbox.server.secrets import take_environment
entries = take_environment()
assert b"SESSION_API_KEY=s3cret" in entries and b"ODD=\\xff" in entries, entries
assert not {"SESSION_API_KEY", "GRAFTBOX_PORT"} & set(os.environ)
assert os.environ["PATH"], "the rest is as it was"
child = subprocess.run(["cat", "/proc/self/environ"], capture_output=True).stdout
assert b"s3cret" not in child and b"GRAFTBOX" not in child and b"ODD=\\xff" in child, child
print(os.getpid(), flush=True)
input()
"""


# Root's privileges aside, processes of one user are equal.
EQUAL = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def look(pid: str, what: str) -> tuple[int, bytes]:
    """What another process of this user is shown."""
    done = subprocess.run([*EQUAL, "cat", f"/proc/{pid}/{what}"], capture_output=True)
    return done.returncode, done.stdout


def test_nobody_reads_the_key_or_the_memory_of_the_server() -> None:
    process = subprocess.Popen(
        [*EQUAL, sys.executable, "-c", LOOK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={
            b"PATH": os.environb[b"PATH"],
            b"PYTHONPATH": bytes(SOURCE),
            b"SESSION_API_KEY": b"s3cret",
            b"GRAFTBOX_PORT": b"1",
            b"ODD": b"\xff",
        },
    )
    assert process.stdout is not None
    pid = process.stdout.readline().decode().strip()
    try:
        ordinary = subprocess.Popen([*EQUAL, "cat"], stdin=subprocess.PIPE)
        until(lambda: Path(f"/proc/{ordinary.pid}/comm").read_text() == "cat\n")
        seen = look(str(ordinary.pid), "environ")[0]
        ordinary.communicate()
        assert seen == 0, "of ordinary processes it can be read"
        for what in ("environ", "maps", "mem"):
            status, shown = look(pid, what)
            assert (status, shown) == (1, b""), what
        if os.geteuid() == 0:
            # With all its privileges root is shown the environment, but the key is gone from it.
            assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        process.communicate(b"\n")
    assert process.returncode == 0

"""The console script as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "from graftbox.cli.app import main; main()"]


def graftbox(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    "command",
    ["bundle", "dockerfile", "doctor", "graft", "image", "lock", "logs", "mirror", "ps", "rm", "run", "stop"],
)
def test_every_command_explains_itself(command: str) -> None:
    done = graftbox(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: -c {command}")


def test_an_unknown_command_is_named() -> None:
    done = graftbox("grfat")
    assert done.returncode == 2
    assert "grfat" in done.stderr


def test_an_error_of_the_disk_is_a_message_and_no_traceback(tmp_path: Path) -> None:
    done = graftbox("lock", str(tmp_path))
    assert done.returncode != 0
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr

"""The base image's own program beside the server, and the server's end."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"


@contextmanager
def running_server(folder: Path, *child: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server with a child; ended in any case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "graftbox.server", "0", "--no-auth", "--", *child],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "GRAFTBOX_SECRET": "x", "OWN": "kept"},
    )
    assert process.stderr is not None
    line = next(line for line in process.stderr if line.startswith("Listening on"))
    try:
        yield process, int(line.rsplit(":", 1)[1])
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def alive(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/alive")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def test_the_child_has_the_original_environment_and_folder_and_its_end_is_only_logged(tmp_path: Path) -> None:
    with running_server(tmp_path, "sh", "-c", 'pwd; echo "$OWN[$GRAFTBOX_SECRET]"; exit 4') as (
        process,
        port,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(tmp_path.resolve())
        assert process.stdout.readline() == "kept[]\n"
        assert process.stderr is not None
        assert any("sh exited with exit code 4; the server goes on." in line for line in process.stderr)
        assert alive(port)
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_a_child_that_can_not_start_is_logged(tmp_path: Path) -> None:
    with running_server(tmp_path, "/no/such/program") as (process, port):
        assert process.stderr is not None
        assert any("/no/such/program could not be started" in line for line in process.stderr)
        assert alive(port)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_the_child_ends_with_the_server(tmp_path: Path) -> None:
    with running_server(tmp_path, "sh", "-c", "echo $$; exec sleep 300") as (process, _):
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.terminate()
        process.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_port_in_use_is_an_error_that_says_so(tmp_path: Path) -> None:
    with running_server(tmp_path, "true") as (_, port):
        words = [sys.executable, "-m", "graftbox.server", str(port), "--no-auth"]
        second = subprocess.run(
            words, capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)}, timeout=60
        )
        assert second.returncode == 1
        assert f"port {port}" in second.stderr
        assert "Traceback" not in second.stderr


def test_a_server_that_is_stopped_while_its_shell_starts_ends(tmp_path: Path) -> None:
    for delay in (0.0, 0.03, 0.06, 0.1):
        with running_server(tmp_path, "sleep", "300") as (process, _):
            time.sleep(delay)
            process.terminate()
            process.communicate(timeout=60)
            assert process.returncode == 0

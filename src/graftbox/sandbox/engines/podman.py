"""Podman: the same Engine API as Docker's, from its socket or from a service started for one command."""

from __future__ import annotations

import atexit
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from graftbox.errors import TransportError, UnsupportedError
from graftbox.sandbox.engines.docker import DockerEngine
from graftbox.store import Store


def socket_path() -> Path:
    """Where podman's own service listens when the machine runs one (podman.socket)."""
    if os.geteuid() == 0:
        return Path("/run/podman/podman.sock")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "podman/podman.sock"


class PodmanEngine(DockerEngine):
    """``CONTAINER_HOST`` or podman's socket; see `start_service` for machines with neither."""

    name = "podman"

    def __init__(self, store: Store, host: str | None = None) -> None:
        super().__init__(store, host or os.environ.get("CONTAINER_HOST") or f"unix://{socket_path()}")

    def limits(self) -> dict[str, Any]:
        """Limits that we may set: without CAP_SYS_RESOURCE podman's defaults (1048576) cannot be reached."""
        kinds = (("nofile", resource.RLIMIT_NOFILE, 1048576), ("nproc", resource.RLIMIT_NPROC, 32768))
        limits = []
        for name, kind, most in kinds:
            hard = resource.getrlimit(kind)[1]
            if 0 <= hard < 1048576:
                limits.append({"Name": name, "Soft": min(hard, most), "Hard": min(hard, most)})
        return {"Ulimits": limits} if limits else {}


def installed() -> bool:
    return shutil.which("podman") is not None


def start_service(store: Store) -> PodmanEngine:
    """Runs ``podman system service`` until this process ends, for a podman without a listening socket."""
    program = shutil.which("podman")
    if program is None:
        raise UnsupportedError("podman is not installed; install it, or use --engine embedded.")
    folder = Path(tempfile.mkdtemp(prefix="graftbox-podman-"))
    address = f"unix://{folder}/podman.sock"
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "system", "service", "--time=0", address],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    atexit.register(_end_service, process, folder)
    engine = PodmanEngine(store, address)
    deadline = time.monotonic() + 20
    while not engine.running():
        if process.poll() is not None or time.monotonic() > deadline:
            raise TransportError(f"podman's service did not start: {log.read_text(errors='replace')[-1000:]}")
        time.sleep(0.01)
    return engine


def _end_service(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)

"""Chromium as a program: where it is, with which options and environment it starts, as which process.

It is driven through a socket pair in the place of `--remote-debugging-pipe`'s two pipes: no port that other
programs of the sandbox could connect to, and no network needed. All of its processes share one process group.
They end with the server, even by SIGKILL: Chromium holds one end of another socket pair, the lifeline, and
the kernel kills the group when the server's end of that is closed (fcntl(2), "I/O readiness").
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftbox.errors import UnsupportedError
from graftbox.server import oom, processes
from graftbox.server.ending import end_of
from graftbox.server.environment import BUNDLE, Environment, bundled, find_program
from graftbox.server.identity import Identity

WIDTH, HEIGHT = 1280, 720
"""Pixels of a page, unless its client says otherwise."""
NAMES = (
    "chromium-headless-shell",
    "chrome-headless-shell",
    "headless_shell",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
)
# Debian's commands are scripts that stay behind as the parents of these.
_BEHIND = {
    "/usr/bin/chromium-headless-shell": "/usr/lib/chromium/chromium-headless-shell",
    "/usr/bin/chromium": "/usr/lib/chromium/chromium",
}
# What the shell does: one socket becomes the descriptors 3 and 4, which the program reads and writes.
_EXEC = 'exec "$@" 3<&0 4>&0 1>&2 </dev/null'
_EXEC_BARE = 'exec "$@" 3<&0 4>&0 1>&2 0<&-'
_SHARED_MEMORY = 256 * 1024 * 1024
_SAID = 8192
_GONE_SECONDS = 2.0
_KEPT_VARIABLES = frozenset(
    name
    for lower in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
    for name in (lower, lower.upper())
) | {"LANG", "LANGUAGE", "TZ"}
_FEATURES_OFF = (
    "AcceptCHFrame",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DialMediaRouteProvider",
    "GlobalMediaControls",
    "HttpsUpgrades",
    "MediaRouter",
    "OptimizationHints",
    "PaintHolding",
    "ThirdPartyStoragePartitioning",
    "Translate",
)
_FLAGS = (
    "--remote-debugging-pipe",
    "--headless",
    "--no-startup-window",
    f"--window-size={WIDTH},{HEIGHT}",
    "--hide-scrollbars",
    "--mute-audio",
    # As with a mouse: pages ask by media queries, and a button looks different below it.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
    "--force-color-profile=srgb",
    "--export-tagged-pdf",
    # Software rendering, WebGL included, without a look for graphics hardware first.
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    # Nothing of its own in the network, and nothing told to anybody.
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--no-service-autorun",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-field-trial-config",
    "--disable-search-engine-choice-screen",
    "--disable-sync",
    "--metrics-recording-only",
    "--password-store=basic",
    # Pages that nobody looks at go on, and those that hang are not ended: both is the client's business.
    "--disable-back-forward-cache",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-renderer-backgrounding",
    f"--disable-features={','.join(_FEATURES_OFF)}",
    f"--disk-cache-size={64 * 1024 * 1024}",
)


@dataclass(frozen=True)
class Plan:
    """``folder`` is a private one of the user ``identity``. ``memory`` in bytes of data that each process may
    have, ``file`` those of a file that it may write, None: any number.
    """

    program: str
    folder: Path
    identity: Identity
    environment: Environment
    sandboxed: bool
    memory: int | None = None
    file: int | None = None


def find(environment: Environment) -> str | None:
    """The bundle's Chromium, else the image's."""
    if own := bundled("oh-chromium"):
        return own
    named = environment.get("GRAFTBOX_CHROMIUM")
    names = (named,) if named else NAMES
    for name in names:
        path = name if "/" in name else find_program(name, environment.get("PATH"))
        if path is not None and os.access(path, os.X_OK):
            behind = _BEHIND.get(path)
            return behind if behind and os.access(behind, os.X_OK) else path
    return None


def flags(plan: Plan) -> list[str]:
    """The options that Chromium is started with."""
    found = [*_FLAGS, f"--user-data-dir={plan.folder / 'profile'}"]
    if not plan.sandboxed:
        found.append("--no-sandbox")
    if not _has_shared_memory():
        found.append("--disable-dev-shm-usage")
    return found


def _has_shared_memory() -> bool:
    """Whether /dev/shm is large enough for pages; container engines give it 64 MB."""
    try:
        found = os.statvfs("/dev/shm")
        return found.f_bavail * found.f_frsize >= _SHARED_MEMORY and os.access("/dev/shm", os.W_OK)
    except OSError:
        return False


def variables(plan: Plan) -> Mapping[bytes, bytes]:
    """Chromium's environment: proxies, language and time zone of the container's, the rest its own."""
    own = {
        b"PATH": b"/usr/local/bin:/usr/bin:/bin",
        b"HOME": os.fsencode(plan.folder),
        b"TMPDIR": os.fsencode(plan.folder / "tmp"),
        # There is no message bus for it to look for.
        b"DBUS_SESSION_BUS_ADDRESS": b"unix:path=/dev/null",
        b"DBUS_SYSTEM_BUS_ADDRESS": b"unix:path=/dev/null",
    }
    for entry in plan.environment.for_the_user():
        name, _, value = entry.partition(b"=")
        text = os.fsdecode(name)
        if (
            text in _KEPT_VARIABLES
            or text.startswith("LC_")
            or (text == "LD_LIBRARY_PATH" and not plan.program.startswith(f"{BUNDLE}/"))
        ):
            own[name] = value
    return own


def prepare(plan: Plan) -> None:
    """Make the folders that it needs; blocking, as any user."""
    names = (".", "profile", "tmp", ".pki", ".pki/nssdb")
    for path in (plan.folder / name for name in names):
        path.mkdir(mode=0o700, exist_ok=True)
        if plan.identity.switched:
            os.chown(path, plan.identity.uid, plan.identity.gid)


def _shell() -> str:
    found = next(
        (path for path in (f"{BUNDLE}/libexec/dash", "/bin/sh", "/bin/dash") if os.access(path, os.X_OK)),
        None,
    )
    if found is None:
        raise UnsupportedError("The browser can't be started: there is neither a bundle nor /bin/sh.")
    return found


class Process:
    """A running Chromium. ``channel`` is our end of its pipe, ``ended`` its exit code or minus the signal."""

    def __init__(self, popen: subprocess.Popen[bytes], channel: socket.socket, lifeline: socket.socket):
        self.channel = channel
        self.pid = popen.pid
        self.said = b""
        self._popen = popen
        self._lifeline = lifeline
        self._loop = asyncio.get_running_loop()
        assert popen.stderr is not None
        self._errors = popen.stderr
        os.set_blocking(self._errors.fileno(), False)
        self._loop.add_reader(self._errors.fileno(), self._listen)
        self.ended = self._loop.create_task(self._watch())

    def kill(self) -> None:
        """SIGKILL for all of its processes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Kill it, and return when nothing of it is left, be it that it hangs in the kernel."""
        self.kill()
        await self.ended
        await asyncio.to_thread(_wait_for_group, self.pid)

    @property
    def last_words(self) -> str:
        """The last lines that it wrote to its standard error."""
        lines = self.said.decode("utf-8", "replace").strip().splitlines()
        return " ".join(line.strip() for line in lines[-3:])[-600:]

    def _listen(self) -> None:
        try:
            data = os.read(self._errors.fileno(), 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.said = (self.said + data)[-_SAID:]
        if not data:
            self._deaf()

    def _deaf(self) -> None:
        if not self._errors.closed:
            self._loop.remove_reader(self._errors.fileno())
            self._errors.close()

    async def _watch(self) -> int:
        await end_of(self.pid)
        self.kill()  # its other processes must not go on without it
        status = self._popen.wait()
        if not self._errors.closed:
            self._listen()
        self._deaf()
        self._lifeline.close()
        return status


def spawn(plan: Plan) -> tuple[subprocess.Popen[bytes], socket.socket, socket.socket]:
    """The process, our end of its pipe and of its lifeline; blocks until it has been executed."""
    ours, theirs = socket.socketpair()
    lifeline, held = socket.socketpair()
    script = _EXEC if Path(os.devnull).exists() else _EXEC_BARE
    try:
        process = subprocess.Popen(
            [_shell(), "-c", script, "sh", plan.program, *flags(plan)],
            env=variables(plan),
            cwd=plan.folder,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.PIPE,
            pass_fds=[held.fileno()],
            start_new_session=True,
            # SIGXFSZ stays ignored, as Python has it: a file that gets too large is an error, not an end.
            restore_signals=False,
            **plan.identity.popen(),
        )
    except OSError as error:
        ours.close()
        lifeline.close()
        raise UnsupportedError(f"{plan.program} can't be started: {error.strerror}.") from error
    else:
        _bind(process.pid, held)
        _limit(process.pid, plan)
        oom.offer(process.pid)
        return process, ours, lifeline
    finally:
        theirs.close()
        held.close()


def _bind(group: int, held: socket.socket) -> None:
    """Have the kernel kill the process group when the other end of ``held`` is closed."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(held, fcntl.F_SETOWN, -group)
        fcntl.fcntl(held, fcntl.F_SETSIG, int(signal.SIGKILL))
        fcntl.fcntl(held, fcntl.F_SETFL, fcntl.fcntl(held, fcntl.F_GETFL) | os.O_ASYNC)


def _limit(pid: int, plan: Plan) -> None:
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, plan.memory),
        (resource.RLIMIT_FSIZE, plan.file),
    ):
        # A tighter limit of the container's own stays; without a privilege another user's can't be set.
        with contextlib.suppress(OSError, ValueError):
            if most is not None:
                now = resource.prlimit(pid, kind)[1]
                most = most if now == resource.RLIM_INFINITY else min(most, now)
                resource.prlimit(pid, kind, (most, most))


def _wait_for_group(group: int) -> None:
    """Until no process of it lives; they are nobody's children here, so that nothing tells of their end."""
    deadline = time.monotonic() + _GONE_SECONDS
    while processes.of_group(group) and time.monotonic() < deadline:
        time.sleep(0.005)

"""The parent of a plugin's processes: none of them outlives the plugin, however it ends.

Run as ``python -ISB guard.py ARGV… LIFELINE``. The lifeline is one end of a socket pair; when the other end
is closed, even by a SIGKILL of the server, or when the plugin's own program ends, everything that it has
started is killed, also what has made itself a daemon: orphans become children of this process (prctl(2),
PR_SET_CHILD_SUBREAPER). It exits as the program did. Signals to the process group are the program's alone.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_GIVE_UP = 2.0
"""Seconds after which processes of other users, which can't be killed from here, are left alone."""
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main(argv: list[str], lifeline: int) -> int:
    os.set_inheritable(lifeline, False)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = os.fork()
    if child == 0:
        _run(argv, libc)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(reading, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if lifeline in ready:
            _end_all()
            return 128 + signal.SIGKILL
        os.read(reading, 4096)
        status = _reap(child)
        if status is not None:
            _end_all()
            return _exit_like(status)


def _run(argv: list[str], libc: ctypes.CDLL) -> None:
    """The program, which dies with this process, if that is all that can be done."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (*_IGNORED, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # Python ignores it, which programs would inherit.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execve(argv[0], argv, os.environ)
    except OSError as error:
        os.write(2, f"{argv[0]} can't be run: {error.strerror}\n".encode())
    os._exit(127)


def _reap(child: int) -> int | None:
    """Collect what has ended; the wait status of ``child`` if it was among it."""
    status = None
    while True:
        try:
            pid, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == child:
            status = how


def _end_all() -> None:
    """Kill every descendant: as parents die their children become ours."""
    until = time.monotonic() + _GIVE_UP
    pause = 0.001
    while time.monotonic() < until:
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _children() -> list[int]:
    own = str(os.getpid())
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - without pathlib it starts sooner
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                parent = file.read().rpartition(b")")[2].split()[1].decode()
        except (OSError, IndexError):
            continue
        if parent == own:
            found.append(int(name))
    return found


def _exit_like(status: int) -> int:
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # SIGKILL is what it is
        signal.signal(number, signal.SIG_DFL)
    import resource

    # The program's memory image would be worth a core file, this one is not.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), number)
    return 128 + number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:-1], int(sys.argv[-1])))

"""A terminal of our own: the kernel's pseudo-terminal, seen from the side of keyboard and screen.

Nothing but C modules is imported: every keeper (keeper.py) loads this.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed leaves it out
import fcntl
import posix
import sys
import termios as t

TERMINAL, REPORT = 100, 101
KEYS = 4 * 1024 * 1024
"""Bytes of keys that wait for a program to read them; more are dropped."""
_TIOCSIG = 0x40045436
_IUTF8, _OLCUC = 0o40000, 0o2
_KEY_SIGNALS = {b"\x03": _signal.SIGINT, b"\x1c": _signal.SIGQUIT, b"\x1a": _signal.SIGTSTP}
_AT_ONCE = 256 * 1024


class PseudoTerminal:
    """``master`` is what the screen reads; the slave stays open: the terminal outlives its users."""

    def __init__(self, columns: int, rows: int) -> None:
        self.master, self.slave = posix.openpty()
        try:
            self.name = posix.ttyname(self.slave)
        except OSError:  # /dev/pts is not where it was made
            self.name = f"/proc/self/fd/{self.slave}"
        self.keys = bytearray()
        posix.set_blocking(self.master, False)
        self.resize(columns, rows)
        self.restore()

    def resize(self, columns: int, rows: int) -> None:
        size = b"".join(number.to_bytes(2, sys.byteorder) for number in (rows, columns, 0, 0))
        fcntl.ioctl(self.master, t.TIOCSWINSZ, size)

    def restore(self) -> None:
        """Undo what a program may have left: no echo, raw mode, a screen stopped by Ctrl-S."""
        mode = t.tcgetattr(self.slave)
        mode[0] = (mode[0] | t.ICRNL | _IUTF8) & ~(t.IGNCR | t.INLCR | t.ISTRIP | t.IXON)
        mode[1] = (mode[1] | t.OPOST | t.ONLCR) & ~(t.OCRNL | t.ONLRET | t.ONOCR | t.TABDLY | _OLCUC)
        mode[3] |= t.ISIG | t.ICANON | t.ECHO | t.ECHOE | t.ECHOK | t.ECHOCTL | t.ECHOKE | t.IEXTEN
        mode[3] &= ~t.NOFLSH
        mode[6][t.VERASE] = b"\x7f"
        t.tcsetattr(self.slave, t.TCSANOW, mode)
        # A stopped terminal goes on when its flow control is switched off.
        mode[0] |= t.IXON
        t.tcsetattr(self.slave, t.TCSANOW, mode)

    def read(self) -> bytes:
        """What the screen has to show now, up to a quarter of a megabyte."""
        pieces, size = [], 0
        while size < _AT_ONCE:
            try:
                piece = posix.read(self.master, 65536)
            except OSError:
                break
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def press(self, keys: bytes) -> None:
        number = _KEY_SIGNALS.get(keys)
        if number is not None and self.keys:
            # As the terminal itself would: the signal goes before what nobody has read.
            self.keys.clear()
            try:
                fcntl.ioctl(self.master, _TIOCSIG, number)
                return
            except OSError:
                pass
        if len(self.keys) + len(keys) <= KEYS:
            self.keys += keys
        self.type()

    def type(self) -> None:
        """Pass keys on as long as the terminal takes them."""
        while self.keys:
            try:
                del self.keys[: posix.write(self.master, self.keys[:4096])]
            except OSError:
                return

    def foreground(self) -> int:
        """The foreground process group, 0 without one."""
        try:
            return posix.tcgetpgrp(self.master)
        except OSError:
            return 0

    def show(self, data: bytes) -> None:
        """Write as a program would, unless the terminal is full."""
        try:
            terminal = posix.open(self.name, posix.O_WRONLY | posix.O_NOCTTY | posix.O_NONBLOCK)
        except OSError:
            terminal = posix.dup(self.slave)
        try:  # noqa: SIM105 (contextlib is not made of C modules alone)
            posix.write(terminal, data)
        except OSError:
            pass
        posix.close(terminal)

    def become(self, private: int, cwd: bytes, argv: list[bytes], environment: list[bytes]) -> None:
        """In a child: take the terminal, arrange the descriptors, execute ``argv[0]``; may raise `OSError`.

        0 is the private socket, 1 and 2 are the terminal, 100 the terminal again, 101 the socket again.
        """
        posix.setsid()
        offer_to_oom_killer()
        fcntl.ioctl(self.slave, t.TIOCSCTTY, 0)
        for directory in (cwd, b"/"):
            try:
                posix.chdir(directory)
                break
            except OSError:
                continue
        # F_DUPFD first: the descriptors may already stand where the others must go.
        terminal = fcntl.fcntl(self.slave, fcntl.F_DUPFD, 200)
        socket = fcntl.fcntl(private, fcntl.F_DUPFD, 200)
        targets = ((socket, 0), (terminal, 1), (terminal, 2), (terminal, TERMINAL), (socket, REPORT))
        for source, target in targets:
            posix.dup2(source, target)
        posix.closerange(3, TERMINAL)
        posix.closerange(REPORT + 1, 1024)
        # What is ignored stays ignored across exec, and the interpreter ignores some.
        for number in _signal.valid_signals():
            if _signal.getsignal(number) == _signal.SIG_IGN:
                _signal.signal(number, _signal.SIG_DFL)
        posix.execve(argv[0], argv[1:], dict(entry.split(b"=", 1) for entry in environment if b"=" in entry))


def offer_to_oom_killer() -> None:
    """As oom.offer does: what the shell runs dies before the server when memory runs out."""
    try:
        handle = posix.open("/proc/self/oom_score_adj", posix.O_RDWR)
        posix.pwrite(handle, b"%d" % min(1000, int(posix.read(handle, 16)) + 500), 0)
        posix.close(handle)
    except (OSError, ValueError):
        pass

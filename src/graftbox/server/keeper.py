"""The program of every tmux pane: starts the user's shell on a terminal of its own and keeps its things.

Run as ``python -ISB keeper.py SOCKET TOKEN``. It presents its token on the server's socket and receives the
shell's argv, folder and environment (the container's own, byte for byte), the file of the session's log and a
listening socket. Then it stays, between four parties:

    the shell      a private socket is the shell's standard input and takes its reports; nothing is typed
    its terminal   a pseudo-terminal whose other side is here: output goes to the log, without our marks
    tmux           shows the output to people and types their keys; it may skip output that comes too fast
    the server     gives commands and keys, hears of marks, reports and the end; it may die, another come

What happened to the present command is kept until the next one, and told again to the next server: nothing is
lost when a server is killed. While a server is there the terminal waits for it; without one the log goes on.

Nothing but C modules is imported: this runs before every new shell.
"""

import _signal  # type: ignore[import-not-found]  # typeshed leaves it out
import posix
import select
import sys
import termios
import time

sys.path.append(__file__.rpartition("/graftbox/")[0])
# An isolated interpreter does not find them otherwise.
from graftbox.server.marks import Marks
from graftbox.server.mirror import Mirror
from graftbox.server.private_socket import PrivateSocket, socket_pair
from graftbox.server.pseudoterminal import PseudoTerminal
from graftbox.server.ring import Ring
from graftbox.server.uplink import Order, Uplink, call

CHUNK = 256 * 1024
WINDOW = 8 * 1024 * 1024
"""How far the terminal may be ahead of a living server, bytes."""
TICK, BEGIN_SECONDS, FAREWELL_SECONDS = 2.0, 15.0, 2.0
HISTORY = 64
"""Marks of one command that are told of."""
ALONE_SECONDS = 15.0
_IGNORED = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGHUP")
_IN, _OUT = select.POLLIN, select.POLLOUT
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Present:
    """What is known of the command that the shell was given last: its marks' letters, its report's coming."""

    def __init__(self, number: bytes, sent: float) -> None:
        self.number, self.sent = number, sent
        self.phases, self.reported = b"", False
        self.suspected, self.probed = 0.0, False

    @property
    def unsettled(self) -> bool:
        """It has been given to the shell, and its end is not known."""
        return bool(self.sent) and not (self.reported and (b"E" in self.phases or b"Z" in self.phases))


class Keeper:
    """The loop between shell, terminal, tmux and server; ends when the server says so or tmux is gone."""

    def __init__(self, uplink: Uplink, nonce: bytes) -> None:
        self.uplink = uplink
        self.marks = Marks(nonce)
        self.mirror = Mirror(1)
        self.present = Present(b"0", 0.0)
        self.poll = select.poll()
        self.interests: dict[int, int] = {}
        self.look_again = 0.0
        self.status: int | None = None
        self.farewell_until = 0.0
        self.ended = False

    # -- starting

    def launch(self, words: list[bytes]) -> None:
        """Start the shell; ``words``: the log's end, columns, rows, folder, argv's length, argv, entries."""
        end, columns, rows, cwd, count, *rest = words
        self.ring = Ring(self.uplink.log, int(end))
        self.terminal = PseudoTerminal(int(columns), int(rows))
        self.private = PrivateSocket()
        self.shell = posix.fork()
        if not self.shell:
            try:
                self.terminal.become(self.private.theirs, cwd, rest[: int(count)], rest[int(count) :])
            except OSError as error:
                posix.write(2, f"{rest[0].decode('utf-8', 'replace')}: {error}\n".encode())
            posix._exit(127)
        posix.close(self.private.theirs)

    def watch(self) -> None:
        """Prepare the descriptors and signals of this process."""
        self.wake, wake = socket_pair()
        posix.set_blocking(self.wake, False)
        posix.set_blocking(wake, False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for name in _IGNORED:
            _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
        mode = termios.tcgetattr(0)
        mode[0], mode[1] = 0, 0
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        termios.tcsetattr(0, termios.TCSANOW, mode)
        posix.set_blocking(0, False)
        posix.set_blocking(1, False)
        try:  # noqa: SIM105 (contextlib is not made of C modules alone)
            # `pkill python` is not meant for this process.
            posix.write(posix.open("/proc/self/comm", posix.O_WRONLY), b"graftbox-pane")
        except OSError:
            pass

    def introduction(self) -> bytes:
        """What a server must know first."""
        return b"%d %d %d %s" % (self.shell, posix.getpid(), self.ring.end, self.present.number)

    # -- the loop

    def run(self) -> None:
        handlers = {
            self.terminal.master: self.from_terminal,
            self.private.descriptor: self.from_shell,
            self.wake: self.from_kernel,
            self.uplink.listener.fileno(): self.from_listener,
            0: self.from_tmux,
            1: self.to_tmux,
        }
        self.uplink.hello(self.introduction(), self.ring.end)
        self.waited()
        while not self.ended:
            for descriptor, events in self.poll.poll(self.prepare()):
                handler = handlers.get(descriptor)
                if handler is not None:
                    handler(events)
                elif descriptor == self.uplink.descriptor:
                    self.from_server(events)
            self.tick()
            self.uplink.flush(self.ring.end)
        self.uplink.flush(self.ring.end)

    def prepare(self) -> int | None:
        """Say what is waited for; returns the time limit in milliseconds."""
        outbox = self.uplink.outbox
        held = self.uplink.lag(self.ring.end) >= min(WINDOW, self.ring.capacity // 4)
        wanted = {
            self.terminal.master: (0 if held or len(outbox) > CHUNK else _IN)
            | (_OUT if self.terminal.keys else 0),
            self.private.descriptor: _IN | (_OUT if self.private.lines else 0),
            self.wake: _IN,
            self.uplink.listener.fileno(): _IN,
            0: _IN,
        }
        times = []
        if self.uplink.descriptor is None:
            times.append(ALONE_SECONDS)
        else:
            wanted[self.uplink.descriptor] = _IN | (_OUT if outbox else 0)
        delay = self.mirror.delay()
        if delay:
            times.append(delay)
        elif delay is not None:
            wanted[1] = _OUT
        if self.unsettled or self.farewell_until:
            times.append(TICK)
        self.want(wanted)
        return int(min(times) * 1000) + 1 if times else None

    def want(self, wanted: dict[int, int]) -> None:
        """Have `poll` wait for these events by descriptor, and for no others."""
        for descriptor in [known for known in self.interests if known not in wanted]:
            self.poll.unregister(descriptor)
            del self.interests[descriptor]
        for descriptor, events in wanted.items():
            if self.interests.get(descriptor) != events:
                self.poll.register(descriptor, events)
                self.interests[descriptor] = events

    # -- the terminal

    def from_terminal(self, events: int) -> None:
        if events & _OUT:
            self.terminal.type()
        if data := self.terminal.read():
            for is_mark, piece in self.marks.feed(data):
                if is_mark:
                    self.mark(piece)
                else:
                    self.ring.write(piece)
                    self.mirror.add(piece)

    def mark(self, content: bytes) -> None:
        phase, number = content[:1], content[1:]
        if phase == b"X":
            self.farewell_until = 0.0
            if self.status is not None:
                self.tell_death()
        elif number == self.present.number and self.uplink.remembered < HISTORY:
            self.present.phases += phase
            self.uplink.remember(b"m", b"%s %d" % (content, self.ring.end))

    # -- tmux

    def from_tmux(self, events: int) -> None:
        try:
            data = posix.read(0, 65536) if events & _IN else b""
        except OSError:
            data = b""
        if data:
            self.terminal.press(data)
        elif events & _GONE or events & _IN:
            # The terminal that people see is gone: say the last words and go.
            self.from_terminal(0)
            self.from_shell(_IN)
            self.ended = True

    def to_tmux(self, events: int) -> None:
        self.mirror.write()

    # -- the shell

    def from_shell(self, events: int) -> None:
        if events & _OUT:
            self.private.feed()
        for report in self.private.reports():
            if report[0][1:] == self.present.number:
                self.present.reported = True
                self.uplink.remember(b"r", b"\0".join(report))

    def from_kernel(self, events: int) -> None:
        posix.read(self.wake, 4096)
        self.waited()

    def waited(self) -> None:
        """Look how the shell is; after the last words of a dead one comes a farewell on the terminal."""
        while self.status is None:
            try:
                pid, status = posix.waitpid(self.shell, posix.WNOHANG | posix.WUNTRACED)
            except OSError:
                return
            if not pid:
                return
            if posix.WIFSTOPPED(status):
                # Nobody else could make it go on.
                posix.kill(self.shell, _signal.SIGCONT)
                continue
            self.status = posix.waitstatus_to_exitcode(status)
            self.farewell_until = time.monotonic() + FAREWELL_SECONDS
            self.from_shell(_IN)
            self.terminal.restore()
            self.terminal.show(self.marks.start + b"X\x07")

    def tell_death(self) -> None:
        assert self.status is not None
        self.uplink.remember(b"d", b"%d %d" % (self.status, self.ring.end))

    # -- time

    @property
    def unsettled(self) -> bool:
        return self.status is None and self.present.unsettled

    def tick(self) -> None:
        """Once in a while: a server that does not come, a dead shell's farewell that does not either."""
        now = time.monotonic()
        if self.uplink.connection is None and now >= self.look_again:
            self.look_again = now + ALONE_SECONDS
            self.ended = self.ended or self.forgotten()
        if self.farewell_until and now >= self.farewell_until:
            self.mark(b"X")
        self.doubt(now)

    def doubt(self, now: float) -> None:
        """A shell that has read all that was sent, and does not report, is no longer able to."""
        present = self.present
        if not self.unsettled or now < present.sent + TICK:
            present.suspected = 0.0
            return
        if not present.probed:
            # An empty line, which the shell reads when it is through with the command, and not before.
            present.probed = True
            self.private.give(b"\n")
        late = b"B" not in present.phases and now >= present.sent + BEGIN_SECONDS
        if self.private.unread and not late:
            present.suspected = 0.0
        elif not present.suspected:
            # Perhaps it only waits for the terminal.
            present.suspected = now
            self.terminal.restore()
        elif now >= present.suspected + TICK:
            present.sent = 0.0
            self.uplink.remember(b"s", b"")

    def forgotten(self) -> bool:
        """Whether the socket where the next server would look is removed."""
        try:
            posix.stat(self.uplink.listener.getsockname())
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False

    # -- the server

    def from_listener(self, events: int) -> None:
        descriptor = self.uplink.accept()
        # What the server before had sent when it died still counts.
        self.hear_out()
        if not self.uplink.take_over(descriptor, self.introduction(), self.ring.end):
            # One who did not wait for an answer may still have said something.
            self.hear_out()
            self.uplink.hang_up()

    def hear_out(self) -> None:
        while (orders := self.uplink.receive()) is not None:
            self.obey(orders)

    def from_server(self, events: int) -> None:
        if events & _IN:
            self.obey(self.uplink.receive() or [])
        elif events & _GONE:
            self.uplink.hang_up()

    def obey(self, orders: list[Order]) -> None:
        for kind, payload in orders:
            if kind == b"c":
                self.begin(*payload.split(b"\0", 1))
            elif kind == b"a":
                self.uplink.acknowledge(int(payload))
            elif kind == b"k":
                self.terminal.press(payload)
            elif kind == b"w":
                columns, rows = payload.split()
                self.terminal.resize(int(columns), int(rows))
            elif kind == b"g":
                self.uplink.send(b"g", b"%d" % self.terminal.foreground())
            elif kind == b"x":
                self.ended = True

    def begin(self, number: bytes, lines: bytes) -> None:
        """Give the shell a command, which is the present one from now on."""
        self.uplink.forget()
        self.present = Present(number, time.monotonic())
        if self.status is not None:
            self.tell_death()
            return
        self.terminal.restore()
        self.private.give(lines)


def main() -> None:
    uplink, (nonce, *words) = call(*sys.argv[1:3])
    keeper = Keeper(uplink, nonce)
    keeper.launch(words)
    keeper.watch()
    keeper.run()


if __name__ == "__main__":
    main()

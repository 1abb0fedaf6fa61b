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
import _socket
import fcntl
import posix
import select
import sys
import termios
import time

sys.path.append(__file__.rpartition("/graftbox/")[0])
# An isolated interpreter does not find them otherwise.
from graftbox.server.frames import frame, take
from graftbox.server.marks import Marks
from graftbox.server.mirror import Mirror
from graftbox.server.pseudoterminal import PseudoTerminal
from graftbox.server.ring import Ring

CHUNK = 256 * 1024
WINDOW = 8 * 1024 * 1024
"""How far the terminal may be ahead of a living server, bytes."""
TICK, BEGIN_SECONDS, FAREWELL_SECONDS = 2.0, 15.0, 2.0
FIELDS = 5
HISTORY = 64
ALONE_SECONDS = 15.0
LARGEST = 1 << 30
_IGNORED = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGHUP")
_IN, _OUT = select.POLLIN, select.POLLOUT
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Keeper:
    """The loop between shell, terminal, tmux and server; ends when the server says so or tmux is gone."""

    def __init__(self, connection: _socket.socket, listener: _socket.socket, log: int, nonce: bytes) -> None:
        self.connection: _socket.socket | None = connection
        self.listener = listener
        self.log = log
        self.marks = Marks(nonce)
        self.poll = select.poll()
        self.interests: dict[int, int] = {}
        self.inbox, self.outbox = bytearray(), bytearray()
        self.acknowledged, self.told, self.waiting_for_ack = 0, 0, False
        self.history: list[bytes] = []
        self.number, self.phases, self.reported, self.sent = b"0", b"", False, 0.0
        self.suspected, self.probed, self.orphaned = 0.0, False, False
        self.report = b""
        self.lines = bytearray()
        self.mirror = Mirror(1)
        self.look_again = 0.0
        self.status: int | None = None
        self.farewell_until = 0.0
        self.ended = False

    # -- starting

    def launch(self, words: list[bytes]) -> None:
        """Start the shell; ``words``: the log's end, columns, rows, folder, argv's length, argv, entries."""
        end, columns, rows, cwd, count, *rest = words
        self.ring = Ring(self.log, int(end))
        self.acknowledged = self.told = int(end)
        self.terminal = PseudoTerminal(int(columns), int(rows))
        self.private, theirs = _socket_pair()
        posix.set_blocking(self.private, False)
        self.shell = posix.fork()
        if not self.shell:
            try:
                self.terminal.become(theirs, cwd, rest[: int(count)], rest[int(count) :])
            except OSError as error:
                posix.write(2, f"{rest[0].decode('utf-8', 'replace')}: {error}\n".encode())
            posix._exit(127)
        posix.close(theirs)

    def watch(self) -> None:
        """Prepare the descriptors and signals of this process."""
        self.wake, wake = _socket_pair()
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

    # -- the loop

    def run(self) -> None:
        handlers = {
            self.terminal.master: self.from_terminal,
            self.private: self.from_shell,
            self.wake: self.from_kernel,
            self.listener.fileno(): self.from_listener,
            0: self.from_tmux,
            1: self.to_tmux,
        }
        self.waited()
        while not self.ended:
            for descriptor, events in self.poll.poll(self.prepare()):
                handler = handlers.get(descriptor)
                if handler is not None:
                    handler(events)
                elif self.connection is not None and descriptor == self.connection.fileno():
                    self.from_server(events)
            self.tick()
            self.flush()
        self.flush()

    def prepare(self) -> int | None:
        """Say what is waited for; returns the time limit in milliseconds."""
        window = min(WINDOW, self.ring.capacity // 4)
        held = self.connection is not None and self.ring.end - self.acknowledged >= window
        wanted = {
            self.terminal.master: (0 if held or len(self.outbox) > CHUNK else _IN)
            | (_OUT if self.terminal.keys else 0),
            self.private: _IN | (_OUT if self.lines else 0),
            self.wake: _IN,
            self.listener.fileno(): _IN,
            0: _IN,
        }
        if self.connection is not None:
            wanted[self.connection.fileno()] = _IN | (_OUT if self.outbox else 0)
        times = []
        delay = self.mirror.delay()
        if delay:
            times.append(delay)
        elif delay is not None:
            wanted[1] = _OUT
        if self.unsettled or self.farewell_until:
            times.append(TICK)
        if self.connection is None:
            times.append(ALONE_SECONDS)
        for descriptor in [known for known in self.interests if known not in wanted]:
            self.poll.unregister(descriptor)
            del self.interests[descriptor]
        for descriptor, events in wanted.items():
            if self.interests.get(descriptor) != events:
                self.poll.register(descriptor, events)
                self.interests[descriptor] = events
        return int(min(times) * 1000) + 1 if times else None

    # -- the terminal

    def from_terminal(self, events: int) -> None:
        if events & _OUT:
            self.terminal.type()
        if data := self.terminal.read():
            for is_mark, piece in self.marks.feed(data):
                if is_mark:
                    self.mark(piece)
                else:
                    self.text(piece)

    def text(self, data: bytes) -> None:
        self.ring.write(data)
        self.mirror.add(data)

    def mark(self, content: bytes) -> None:
        phase, number = content[:1], content[1:]
        if phase == b"X":
            self.farewell_until = 0.0
            if self.status is not None:
                self.remember(b"d", b"%d %d" % (self.status, self.ring.end))
        elif number == self.number and len(self.history) < HISTORY:
            self.phases += phase
            self.remember(b"m", b"%s %d" % (content, self.ring.end))

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
        if events & _OUT and self.lines:
            self.feed()
        try:
            data = posix.read(self.private, 65536)
        except OSError:
            return
        if not data:
            self.orphan()
            return
        *fields, self.report = (self.report + data).split(b"\0")
        while len(fields) >= FIELDS:
            report, fields = fields[:FIELDS], fields[FIELDS:]
            if report[0][1:] == self.number:
                self.reported = True
                self.remember(b"r", b"\0".join(report))
        self.report = b"\0".join([*fields, self.report])

    def orphan(self) -> None:
        """Every process that had the private socket has closed it: one that stays silent takes its place."""
        self.orphaned = True
        silent, self.unused = _socket_pair()
        posix.dup2(silent, self.private)
        posix.close(silent)
        posix.set_blocking(self.private, False)

    def feed(self) -> None:
        while self.lines:
            try:
                del self.lines[: posix.write(self.private, self.lines[:65536])]
            except OSError:
                return

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

    # -- time

    @property
    def unsettled(self) -> bool:
        """The present command has been given to the shell, and its end is not known."""
        if self.status is not None or not self.sent:
            return False
        return not (self.reported and (b"E" in self.phases or b"Z" in self.phases))

    def tick(self) -> None:
        """Once in a while: a dead shell's farewell that does not come, a shell that reports no more."""
        now = time.monotonic()
        if self.connection is None and now >= self.look_again:
            self.look_again = now + ALONE_SECONDS
            self.ended = self.ended or self.forgotten()
        if self.farewell_until and now >= self.farewell_until:
            self.mark(b"X")
        if not self.unsettled or now < self.sent + TICK:
            self.suspected = 0.0
            return
        if not self.probed:
            # An empty line, which the shell reads when it is through with the command, and not before.
            self.probed = True
            self.lines += b"\n"
            self.feed()
        # A shell that has read all that was sent and does not report is no longer able to.
        unread = self.lines or self.orphaned or self.unread()
        late = b"B" not in self.phases and now >= self.sent + BEGIN_SECONDS
        if unread and not late:
            self.suspected = 0.0
        elif not self.suspected:
            # Perhaps it only waits for the terminal.
            self.suspected = now
            self.terminal.restore()
        elif now >= self.suspected + TICK:
            self.sent = 0.0
            self.remember(b"s", b"")

    def forgotten(self) -> bool:
        """Whether the socket where the next server would look is removed."""
        try:
            posix.stat(self.listener.getsockname())
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False

    def unread(self) -> bool:
        """Whether the shell has not yet read all that was sent to it."""
        try:
            return fcntl.ioctl(self.private, termios.TIOCOUTQ, bytes(4)) != bytes(4)
        except OSError:
            return True  # a kernel that does not tell

    # -- the server

    def remember(self, kind: bytes, payload: bytes) -> None:
        """Tell the server, and keep it for the next one."""
        told = frame(kind, payload)
        self.history.append(told)
        if self.connection is not None:
            self.outbox += told

    def hello(self) -> None:
        """Introduce the shell to a server, and hand the log over."""
        assert self.connection is not None
        payload = b"%d %d %d %s" % (self.shell, posix.getpid(), self.ring.end, self.number)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, self.log.to_bytes(4, sys.byteorder))]
        self.connection.sendmsg([frame(b"h", payload)], rights)
        self.connection.setblocking(False)

    def from_listener(self, events: int) -> None:
        descriptor, _ = self.listener._accept()  # type: ignore[attr-defined]  # typeshed leaves it out
        # What the server before had sent when it died still counts.
        while self.connection is not None and self.from_server(_IN):
            pass
        self.hang_up()
        self.connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        self.interests.clear()
        self.poll = select.poll()
        self.inbox.clear()
        self.outbox.clear()
        self.connection.setblocking(False)
        try:
            self.hello()
        except OSError:
            # One who did not wait for an answer may still have said something.
            while self.connection is not None and self.from_server(_IN):
                pass
            self.hang_up()
            return
        self.acknowledged = self.told = self.ring.end
        self.waiting_for_ack = False
        for told in self.history:
            self.outbox += told

    def hang_up(self) -> None:
        """The server is gone. The log goes on."""
        if self.connection is not None:
            if self.interests.pop(self.connection.fileno(), None) is not None:
                self.poll.unregister(self.connection)
            self.connection.close()
            self.connection = None
            self.outbox.clear()

    def from_server(self, events: int) -> bool:
        """Obey what the server has sent; whether there may be more."""
        assert self.connection is not None
        if events & _IN:
            try:
                data = self.connection.recv(1 << 20)
            except BlockingIOError:
                return False
            except OSError:
                data = b""
            if not data:
                self.hang_up()
                return False
            self.inbox += data
            for kind, payload in take(self.inbox, LARGEST):
                self.obey(kind, payload)
        elif events & _GONE:
            self.hang_up()
        return self.connection is not None

    def obey(self, kind: bytes, payload: bytes) -> None:
        if kind == b"c":
            self.number, lines = payload.split(b"\0", 1)
            self.history.clear()
            self.phases, self.reported, self.sent, self.suspected = b"", False, time.monotonic(), 0.0
            self.probed = False
            if self.status is not None:
                self.remember(b"d", b"%d %d" % (self.status, self.ring.end))
                return
            self.terminal.restore()
            self.lines += lines
            self.feed()
        elif kind == b"a":
            self.acknowledged, self.waiting_for_ack = int(payload), False
        elif kind == b"k":
            self.terminal.press(payload)
        elif kind == b"w":
            columns, rows = payload.split()
            self.terminal.resize(int(columns), int(rows))
        elif kind == b"g":
            self.outbox += frame(b"g", b"%d" % self.terminal.foreground())
        elif kind == b"x":
            self.ended = True

    def flush(self) -> None:
        if self.connection is None:
            return
        if self.ring.end != self.told and not self.waiting_for_ack:
            self.told, self.waiting_for_ack = self.ring.end, True
            self.outbox += frame(b"o", b"%d" % self.told)
        if self.outbox:
            try:
                del self.outbox[: self.connection.send(self.outbox)]
            except BlockingIOError:
                pass
            except OSError:
                self.hang_up()


def _socket_pair() -> tuple[int, int]:
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return one.detach(), other.detach()


def _receive(connection: _socket.socket) -> tuple[bytes, list[int]]:
    """The server's first message: a length, that many bytes, and the descriptors that come with them."""
    descriptors: list[int] = []
    data = b""
    while len(data) < 8 or len(data) < 8 + int.from_bytes(data[:8], "big"):
        chunk, rights, _, _ = connection.recvmsg(65536, _socket.CMSG_SPACE(8))
        if not chunk:
            sys.exit("The server closed its socket before the shell could start.")
        data += chunk
        for _, _, numbers in rights:
            descriptors += [
                int.from_bytes(numbers[i : i + 4], sys.byteorder) for i in range(0, len(numbers), 4)
            ]
    return data[8:], descriptors


def main() -> None:
    path, token = sys.argv[1:3]
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(path)
    connection.sendall(f"{token}\n".encode())
    body, descriptors = _receive(connection)
    nonce, *words = body.split(b"\0")
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptors[1])
    keeper = Keeper(connection, listener, descriptors[0], nonce)
    keeper.launch(words)
    keeper.watch()
    keeper.hello()
    keeper.run()


if __name__ == "__main__":
    main()

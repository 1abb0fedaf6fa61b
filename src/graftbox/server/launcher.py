"""The program of every tmux pane: ties the pane to the server, starts the user's shell and waits for its end.

Run as ``python -ISB launcher.py SOCKET TOKEN``. It presents its token on the server's private socket,
receives the shell's argv, working directory and environment (the container's own, byte for byte) and arranges
the descriptors:

    0    the private socket: the shell reads its commands here, where no program of the user reads or echoes
    1, 2 the pane's terminal
    100  the terminal, given to the user's programs as their standard input
    101  the private socket again, for the shell's reports

It stays as the shell's parent, because tmux throws away what it has not yet read, or not passed on, as soon
as the program that it started is dead. When the shell ends, the launcher reports how on the socket and prints
a farewell on the terminal, after which no output is missing; then it waits for the server to hang up.

Nothing but C modules is imported: this runs before every new shell.
"""

import _signal  # type: ignore[import-not-found]  # typeshed leaves it out
import _socket
import fcntl
import posix
import sys

TERMINAL, REPORT = 100, 101


def main() -> None:
    path, token = sys.argv[1:3]
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(path)
    pane = posix.environ.get(b"TMUX_PANE", b"").decode("ascii")
    connection.sendall(f"{token} {pane} {posix.getpid()}\n".encode())
    size = int.from_bytes(_exactly(connection, 8), "big")
    farewell, cwd, count, *rest = _exactly(connection, size).split(b"\0")
    shell = posix.fork()
    if not shell:
        _become(connection, cwd, rest[: int(count)], rest[int(count) :])
    _guard(shell, connection, farewell)


def _become(connection: _socket.socket, cwd: bytes, argv: list[bytes], environment: list[bytes]) -> None:
    """Arrange the descriptors and execute the shell."""
    for directory in (cwd, b"/"):
        try:
            posix.chdir(directory)
            break
        except OSError:
            continue
    # F_DUPFD first: the descriptors may already stand where the others must go.
    terminal = fcntl.fcntl(0, fcntl.F_DUPFD, 200)
    socket = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD, 200)
    posix.dup2(terminal, TERMINAL)
    posix.dup2(socket, REPORT)
    posix.dup2(socket, 0)
    posix.closerange(3, TERMINAL)
    posix.closerange(REPORT + 1, 1024)
    # The interpreter ignores these, and what is ignored stays ignored across exec.
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    posix.execve(argv[0], argv[1:], dict(entry.split(b"=", 1) for entry in environment if b"=" in entry))


def _guard(shell: int, connection: _socket.socket, farewell: bytes) -> None:
    """Wait for the shell, tell it when the terminal goes away, and see that its last output arrives."""
    # The keys of the terminal and `pkill python` are not meant for this process.
    try:  # noqa: SIM105 (contextlib is not made of C modules alone)
        posix.write(posix.open("/proc/self/comm", posix.O_WRONLY), b"graftbox-pane")
    except OSError:
        pass
    for number in (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGTSTP, _signal.SIGTTOU):
        _signal.signal(number, _signal.SIG_IGN)
    _signal.signal(_signal.SIGHUP, lambda *_: posix.kill(shell, _signal.SIGHUP))
    while posix.WIFSTOPPED(status := posix.waitpid(shell, posix.WUNTRACED)[1]):
        # Ctrl-Z in a program that has replaced the shell (exec): nothing else could make it go on.
        if posix.WSTOPSIG(status) == _signal.SIGTSTP:
            posix.kill(shell, _signal.SIGCONT)
    _signal.signal(_signal.SIGHUP, _signal.SIG_DFL)
    try:
        connection.sendall(b"\0%s %d\0" % (farewell, posix.waitstatus_to_exitcode(status)))
        posix.write(1, b"\033]7777;%s\007" % farewell)
        while connection.recv(4096):
            pass
    except OSError:
        pass  # the server or tmux is gone already


def _exactly(connection: _socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            sys.exit("The server closed the private socket before the shell could start.")
        data += chunk
    return data


if __name__ == "__main__":
    main()

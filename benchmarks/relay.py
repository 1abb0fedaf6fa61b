"""A relay before a registry that counts what clients send; it does not look at it, so it costs little."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Relay:
    """``address`` is what clients connect to; ``sent`` the bytes they sent, headers and all."""

    address: str
    sent: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def count(self, size: int) -> None:
        with self.guard:
            self.sent += size


@contextlib.contextmanager
def relay(upstream: str) -> Iterator[Relay]:
    """Relays to ``host:port`` while the block runs. The registry must use relative URLs."""
    host, _, port = upstream.partition(":")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        state = Relay(f"127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            # Closing a socket does not wake accept(); shutting it down does.
            with contextlib.suppress(OSError):
                while True:
                    client = listener.accept()[0]
                    server = socket.create_connection((host, int(port)))
                    for end in (client, server):
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=_serve, args=(client, server, state), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(client: socket.socket, server: socket.socket, state: Relay) -> None:
    with client, server:
        back = threading.Thread(target=_pump, args=(server, client, None), daemon=True)
        back.start()
        _pump(client, server, state)
        back.join()


def _pump(source: socket.socket, target: socket.socket, state: Relay | None) -> None:
    """One direction, until its end."""
    buffer = memoryview(bytearray(1 << 18))
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            if state is not None:
                state.count(size)
            target.sendall(buffer[:size])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)

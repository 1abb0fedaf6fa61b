"""The output side of a foreign kernel: messages to the server, and streams that turn prints into messages.

Runs on Python 3.6, with nothing but the standard library.
"""

import codecs
import io
import json
import os
import select
import socket
import sys
import threading
from typing import Any, Dict, List

# ruff: noqa: UP006, UP031, UP035 - Python 3.6 has no dict[str, Any]

_BATCH = 16 * 1024
_DELAY = 0.05
_ROUNDS = 256


class Channel:
    """Sends messages; collects what is printed, so that a thousand prints are not a thousand messages."""

    def __init__(self, wire: socket.socket) -> None:
        self.wire = wire
        self.lock = threading.RLock()
        self.process = os.getpid()
        self.cell = 0
        self.pending: List[str] = []
        self.pending_name = ""
        self.pending_size = 0
        self.alarm = threading.Event()
        self.watchers: List[_Watcher] = []

    def capture(self) -> None:
        """Take over stdout and stderr, of Python and of everything below it."""
        for number, name in ((1, "stdout"), (2, "stderr")):
            self.watchers.append(_Watcher(self, number, name))
            setattr(sys, name, _Printer(self, number, name))
        threading.Thread(target=self._flush_at_times, daemon=True).start()

    def begin(self, cell: Any) -> None:
        with self.lock:
            self.flush()
            self.cell = cell

    def send(self, message: Dict[str, Any]) -> None:
        """One message, now; `emit` sends the present cell's, after all that was written before it."""
        if os.getpid() != self.process:
            return
        data = json.dumps(message).encode() + b"\n"
        with self.lock:
            self.wire.sendall(data)

    def emit(self, kind: str, **content: Any) -> None:
        if kind != "stream":
            self.settle()
        message = {"id": self.cell, "kind": kind}
        message.update(content)
        self.send(message)

    def print(self, name: str, text: str) -> None:
        with self.lock:
            if self.pending_name != name:
                self.flush()
                self.pending_name = name
            self.pending.append(text)
            self.pending_size += len(text)
            if self.pending_size >= _BATCH:
                self.flush()
        self.alarm.set()

    def flush(self) -> None:
        with self.lock:
            if self.pending:
                text = "".join(self.pending)
                del self.pending[:]
                self.pending_size = 0
                self.emit("stream", name=self.pending_name, text=text)

    def settle(self) -> None:
        """Wait for all that was written to the file descriptors so far."""
        for watcher in self.watchers:
            watcher.settle()
        self.flush()

    def _flush_at_times(self) -> None:
        while True:
            self.alarm.wait()
            self.alarm.clear()
            threading.Event().wait(_DELAY)
            self.flush()


class _Watcher:
    """Reads what is written to a file descriptor by programs and libraries."""

    def __init__(self, channel: Channel, number: int, name: str) -> None:
        self.channel, self.name = channel, name
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.dup2(writing, number)
        os.close(writing)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.turn = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def settle(self) -> None:
        """Take all that is there; a program that writes without end can't hold it up for ever."""
        with self.turn:
            for _ in range(_ROUNDS):
                if not self._take():
                    return

    def _watch(self) -> None:
        while True:
            select.select([self.reading], [], [])
            with self.turn:
                self._take()

    def _take(self) -> bool:
        try:
            data = os.read(self.reading, 1 << 16)
        except BlockingIOError:
            return False
        text = self.decoder.decode(data)
        if text:
            self.channel.print(self.name, text)
        return bool(data)


class _Printer(io.TextIOBase):
    """What ``sys.stdout`` is: text goes to the channel in the order in which it is printed."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, channel: Channel, number: int, name: str) -> None:
        self.channel, self.number, self.name = channel, number, name
        self.buffer = io.FileIO(number, "w", closefd=False)

    def fileno(self) -> int:
        return self.number

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not %s" % type(text).__name__)
        if os.getpid() != self.channel.process:  # a fork: its words reach us by the file descriptor
            self.buffer.write(text.encode("utf-8", "replace"))
        elif text:
            self.channel.print(self.name, text)
        return len(text)

    def flush(self) -> None:
        pass

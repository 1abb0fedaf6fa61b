"""A proxy in front of a real registry that does what networks and registries do on their bad days."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Fault:
    """What happens to requests that match ``METHOD PATH?QUERY``, the next ``times`` times (-1: always)."""

    kind: str
    pattern: str
    times: int = 1
    value: str = ""

    def takes(self, line: str) -> bool:
        if self.times == 0 or not re.search(self.pattern, line):
            return False
        self.times -= 1
        return True


@dataclass
class Faulty:
    """The running proxy: give it faults, and ask it what it has seen."""

    address: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """``METHOD PATH?QUERY`` of each request."""
    received: int = 0
    """Bytes of request bodies."""
    headers: list[dict[str, str]] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def will(self, kind: str, pattern: str, times: int = 1, value: str = "") -> None:
        self.faults.append(Fault(kind, pattern, times, value))

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.seen)


ANSWERS = {"429", "500", "502", "503", "401", "403", "404", "405", "413", "416"}


class _Proxy(BaseHTTPRequestHandler):
    """One connection of a client, and the one to the registry behind it."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, _Server)
        self.state, self.registry = self.server.state, self.server.registry
        self.upstream: http.client.HTTPConnection | None = None

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.do
        raise AttributeError(name)

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def do(self) -> None:
        line = f"{self.command} {unquote(self.path)}"
        with self.state.guard:
            self.state.seen.append(line)
            self.state.headers.append(dict(self.headers.items()))
            fault = next((f for f in self.state.faults if f.takes(line)), Fault("", ""))
            if fault.kind:
                self.state.happened.append(f"{fault.kind} {line}")
        length = int(self.headers.get("Content-Length") or 0)
        if fault.kind == "too large":
            fault = Fault("413" if length > int(fault.value) else "", "")
        if fault.kind == "reset":
            self.reset()
        elif fault.kind in ANSWERS:
            self.drain(length)
            extra = {"Retry-After": fault.value} if fault.value else {}
            self.answer(int(fault.kind), extra, b'{"errors":[]}')
        elif fault.kind == "redirect":
            self.drain(length)
            self.answer(307, {"Location": fault.value}, b"")
        elif fault.kind == "html":
            self.drain(length)
            self.answer(int(fault.value), {"Content-Type": "text/html"}, b"<html>Not here.</html>")
        elif fault.kind == "lacks":
            self.drain(length)
            detail = {"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "detail": {"digest": fault.value}}]}
            self.answer(404, {"Content-Type": "application/json"}, json.dumps(detail).encode())
        else:
            self.forward(fault, length)

    def drain(self, length: int) -> None:
        while length > 0:
            length -= len(self.rfile.read(min(length, 1 << 16)))

    def reset(self) -> None:
        """Ends the connection by RST, as a crash or a firewall does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def forward(self, fault: Fault, length: int) -> None:
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(self.registry)
        there = self.upstream
        path = self.path.partition("?")[0] if fault.kind == "unmounted" else self.path
        there.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            spoilt = fault.kind == "spoil token" and name == "Authorization"
            there.putheader(name, "Bearer spoilt" if spoilt else value)
        there.endheaders()
        if not self.pass_on(fault, length, there):
            there.close()
            self.upstream = None
            return
        response = there.getresponse()
        body = response.read()
        if fault.kind == "lose answer":
            self.reset()
            return
        headers = {
            name: value
            for name, value in response.getheaders()
            if name.lower() not in {"connection", "date", "transfer-encoding", "content-length"}
        }
        if self.command == "HEAD":
            headers["Content-Length"] = response.getheader("Content-Length") or "0"
        self.deliver(fault, response.status, headers, body)

    def pass_on(self, fault: Fault, length: int, there: http.client.HTTPConnection) -> bool:
        """The request's body; False if it did not arrive as a whole."""
        left = length
        while left > 0:
            if fault.kind == "cut upload" and left <= length - length // 2:
                # The registry has noticed, and kept what it has, when it ends the connection too.
                there.sock.shutdown(socket.SHUT_WR)
                there.sock.settimeout(10)
                with contextlib.suppress(OSError):
                    while there.sock.recv(1 << 14):
                        pass
                there.close()
                self.reset()
                return False
            chunk = self.rfile.read(min(left, 1 << 14))
            if not chunk:
                self.close_connection = True
                return False
            with self.state.guard:
                self.state.received += len(chunk)
            if fault.kind == "spoil upload" and left == length:
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
            left -= len(chunk)
            there.send(chunk)
        return True

    def deliver(self, fault: Fault, status: int, headers: dict[str, str], body: bytes) -> None:
        if fault.kind == "cut body":
            headers["Content-Length"] = str(len(body))
            self.answer(status, headers, body[: len(body) // 2])
            self.reset()
            return
        self.change(fault, headers)
        if fault.kind == "pages" and status == 200:
            body = self.page(body, fault.value, headers)
        if fault.kind == "gzip" and body:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        if fault.kind == "drip head":
            self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000)
            return
        if fault.kind == "truncate":
            body = body[: len(body) // 2]
        if fault.kind == "spoil body" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault.kind == "drip":
            self.answer(status, {**headers, "Content-Length": str(len(body))}, b"")
            self.drip(body)
            return
        self.answer(status, headers, body)

    def change(self, fault: Fault, headers: dict[str, str]) -> None:
        """The header fields that the fault is about."""
        if fault.kind == "with header":
            name, _, value = fault.value.partition(": ")
            headers[name] = value
        if fault.kind == "without header":
            headers.pop(fault.value, None)
        elsewhere = fault.kind == "absolute" or (fault.kind == "unmounted" and fault.value)
        if elsewhere and "Location" in headers:
            headers["Location"] = f"http://{fault.value or self.state.address}{headers['Location']}"

    def page(self, body: bytes, host: str, headers: dict[str, str]) -> bytes:
        """Three tags of a list, and where the next ones are: on ``host``, or by a relative address."""
        names = sorted(json.loads(body)["tags"])
        last = dict(parse_qsl(urlsplit(self.path).query)).get("last", "")
        page = [name for name in names if name > last][:3]
        if page and page[-1] != names[-1]:
            where = f"http://{host}" if host else ""
            headers["Link"] = f'<{where}{urlsplit(self.path).path}?last={page[-1]}&n=3>; rel="next"'
        return json.dumps({"tags": page}).encode()

    def drip(self, data: bytes) -> None:
        """Byte by byte, until the client has had enough: a slow loris."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.02)

    def log_message(self, *_: Any) -> None:
        """Silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, registry: str, state: Faulty) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.registry, self.state = registry, state
        state.address = f"127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Connections that end abruptly are what this is for."""


@contextlib.contextmanager
def faulty(registry: str) -> Iterator[Faulty]:
    """A proxy before the registry at ``HOST:PORT``, which must use relative URLs."""
    state = Faulty("")
    with _Server(registry, state) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()

"""Answers every request with the time, on the Unix socket that the first argument names."""

from __future__ import annotations

import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler


class Clock(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = time.strftime("%H:%M:%S\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        print(self.command, self.path, flush=True)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


with Server(sys.argv[1], Clock) as server:
    server.serve_forever()

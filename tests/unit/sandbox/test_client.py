"""The client, against real servers on real sockets."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from graftbox.errors import FormatError, TransportError, UsageError
from graftbox.sandbox.client import Client

RAN: dict[str, Any] = {
    "observation": "run",
    "content": "hi",
    "extras": {"metadata": {"exit_code": 3, "working_dir": "/tmp", "suffix": "[done]"}},
}


class Handler(BaseHTTPRequestHandler):
    """A server that answers `answer` and remembers what it was asked."""

    answer: Any = RAN
    asked: list[Any]

    def do_GET(self) -> None:
        self._say(200, {"status": "ok", "uptime": 1.0})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked.append(body)
        if self.headers["X-Session-API-Key"] != "key":
            self._say(403, {"detail": "Invalid API Key"})
        elif isinstance(self.answer, int):
            self._say(self.answer, {"detail": "Internal server error: boom"})
        else:
            self._say(200, self.answer)

    def _say(self, status: int, value: Any) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass

    def address_string(self) -> str:
        return "local"


class UnixServer(socketserver.UnixStreamServer):
    pass


@contextmanager
def serving(answer: Any, path: Path | None = None) -> Iterator[tuple[str, list[Any]]]:
    handler = type("H", (Handler,), {"answer": answer, "asked": []})
    server = UnixServer(str(path), handler) if path else HTTPServer(("127.0.0.1", 0), handler)
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"unix://{path}" if path else f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        try:
            yield url, handler.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


def test_a_command_gives_output_code_and_folder() -> None:
    with serving(RAN) as (url, asked), Client(url, "key") as client:
        outcome = client.run("echo hi", timeout=5)
    assert (outcome.output, outcome.exit_code, outcome.working_dir, outcome.note) == (
        "hi",
        3,
        "/tmp",
        "[done]",
    )
    [body] = asked
    args = {"command": "echo hi", "blocking": True, "hidden": True}
    assert body == {"action": {"action": "run", "args": args, "timeout": 5}}


def test_a_unix_socket_deep_in_folders_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    with serving(RAN, Path("s")) as (_, _), Client(f"unix://{deep}/s", "key") as client:
        assert client.alive()
        assert client.run("x").output == "hi"


def test_a_wrong_key_is_named_as_the_cause() -> None:
    with (
        serving(RAN) as (url, _),
        Client(url, "other") as client,
        pytest.raises(TransportError, match="refused the key"),
    ):
        client.run("x")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (500, TransportError, "boom"),
        ({"observation": "error", "content": "no shell"}, TransportError, "no shell"),
        (b"<html>", FormatError, "not JSON"),
        (b"[]", FormatError, "not an object"),
    ],
)
def test_bad_answers_are_told_apart(answer: Any, error: type[Exception], words: str) -> None:
    with serving(answer) as (url, _), Client(url, "key") as client, pytest.raises(error, match=words):
        client.run("x")


def test_files_are_read_and_written() -> None:
    with serving({"observation": "read", "content": "text"}) as (url, _), Client(url, "key") as client:
        assert client.read("/f") == "text"
        with pytest.raises(TransportError, match="refused to write /f"):
            client.write("/f", "x")


def test_nobody_at_the_address_is_said() -> None:
    with Client("http://127.0.0.1:1") as client:
        assert not client.alive()
        with pytest.raises(TransportError, match="could not be reached"):
            client.server_info()
    with pytest.raises(UsageError, match="http:// or unix://"):
        Client("ftp://x")


def test_waiting_ends_when_the_sandbox_has_ended() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(TransportError, match=r"(?s)ended before.*last words"):
            client.wait_until_alive(running=lambda: False, log_tail=lambda: "last words")
        with pytest.raises(TransportError, match=r"within 0\.05 s"):
            client.wait_until_alive(0.05)


def test_waiting_ends_when_the_server_answers() -> None:
    server = HTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"asked": []}), bind_and_activate=False)
    server.server_bind()
    thread = threading.Thread(target=server.handle_request)

    def late() -> bool:
        """Asked after a while without an answer."""
        if thread.ident is None:
            server.server_activate()
            thread.start()
        return True

    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        assert not client.alive()
        client.wait_until_alive(running=late)
    thread.join()
    server.server_close()

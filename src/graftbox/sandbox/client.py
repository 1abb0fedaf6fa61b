"""A client for the server inside a sandbox: plain blocking calls over TCP or a Unix socket.

with Client(sandbox.url, sandbox.key) as client:
    client.wait_until_alive()
    print(client.run("uname -a").output)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from graftbox.errors import FormatError, TransportError, UsageError
from graftbox.sandbox.sockets import listens, short_path

KEY_HEADER = "X-Session-API-Key"
FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.01
CHECK_EVERY = 0.05
"""Seconds between two questions to the engine whether the sandbox still lives."""


@dataclass(frozen=True)
class Outcome:
    """What a shell command did."""

    output: str
    """What it printed, as the terminal shows it, without trailing blanks."""
    exit_code: int
    """-1 while it still runs (its time was up); else the shell's exit code."""
    working_dir: str | None
    """The shell's folder afterwards."""
    note: str
    """The server's own remark after the output, such as a time-out's."""


class Client:
    """Talks to one server. ``url`` is ``http://host:port`` or ``unix://<socket path>``.

    Raises `TransportError` when the server cannot be reached or refuses.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self._open = contextlib.ExitStack()
        self._socket: str | None = None
        headers = {KEY_HEADER: key} if key else {}
        if url.startswith("unix://"):
            self._socket = self._open.enter_context(short_path(Path(url.removeprefix("unix://"))))
            # No TLS here: loading the certificates for it would take 80 ms.
            transport = httpx2.HTTPTransport(uds=self._socket, verify=False)
            address = "http://sandbox"
        elif url.startswith(("http://", "https://")):
            transport, address = httpx2.HTTPTransport(verify=url.startswith("https:")), url
        else:
            raise UsageError(f"{url!r} is not a server's address; it starts with http:// or unix://.")
        self._http = httpx2.Client(
            transport=transport, base_url=address, headers=headers, timeout=30, trust_env=False
        )

    def close(self) -> None:
        self._http.close()
        self._open.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def alive(self) -> bool:
        """Whether the server answers now."""
        if self._socket is not None and not listens(self._socket):
            return False
        try:
            return self._http.get("/alive", timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    def wait_until_alive(
        self,
        timeout: float = 60,
        running: Callable[[], bool] | None = None,
        log_tail: Callable[[], str] | None = None,
    ) -> None:
        """Returns as soon as the server answers.

        ``timeout`` is in seconds; ``running`` says whether the sandbox still lives, and ``log_tail`` gives
        the end of its log for the message. Raises `TransportError` when it died or the time is up.
        """
        started = checked = time.monotonic()
        pause = FIRST_PAUSE
        while not self.alive():
            now = time.monotonic()
            if running is not None and now - checked > CHECK_EVERY:
                checked = now
                if not running():
                    raise ended_early(log_tail)
            if now - started > timeout:
                raise TransportError(
                    f"The server at {self.url} did not answer within {timeout:g} s." + _tail(log_tail)
                )
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def server_info(self) -> dict[str, Any]:
        """Uptime, idle time (seconds) and resources of the server's process."""
        return _object(self._request("GET", "/server_info"))

    def execute(self, action: Mapping[str, Any], timeout: float | None = 30) -> dict[str, Any]:
        """Sends one action as it is and returns the observation; ``timeout`` (seconds) is the request's."""
        return _object(self._request("POST", "/execute_action", json={"action": action}, timeout=timeout))

    def run(self, command: str, timeout: float | None = None, *, hidden: bool = True) -> Outcome:
        """Runs a command in the sandbox's shell and waits for its end.

        ``timeout`` (seconds) ends the waiting, not the command; None waits for ever. ``hidden`` asks for the
        whole output, which is otherwise cut in the middle past 30,000 characters.
        """
        args = {"command": command, "blocking": True, "hidden": hidden}
        action: dict[str, Any] = {"action": "run", "args": args}
        if timeout is not None:
            action["timeout"] = timeout
        answer = self.execute(action, None if timeout is None else timeout + 5)
        if answer.get("observation") != "run":
            raise TransportError(f"The sandbox did not run the command: {answer.get('content')}")
        metadata = answer["extras"]["metadata"]
        return Outcome(
            answer["content"],
            int(metadata["exit_code"]),
            metadata.get("working_dir"),
            metadata.get("suffix", ""),
        )

    def read(self, path: str) -> str:
        """A text file's content; raises `TransportError` with the server's words when it cannot be read."""
        return str(self._expect("read", {"path": path})["content"])

    def write(self, path: str, content: str) -> None:
        """Replaces a text file's content, making its folders."""
        self._expect("write", {"path": path, "content": content})

    def _expect(self, kind: str, args: dict[str, Any]) -> dict[str, Any]:
        answer = self.execute({"action": kind, "args": args})
        if answer.get("observation") != kind:
            raise TransportError(f"The sandbox refused to {kind} {args['path']}: {answer.get('content')}")
        return answer

    def _request(
        self, method: str, path: str, json: Any = None, timeout: float | None = 30
    ) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, json=json, timeout=timeout)
        except httpx2.TimeoutException as error:
            raise TransportError(f"The server at {self.url} did not answer {path} in time.") from error
        except httpx2.TransportError as error:
            raise TransportError(
                f"The server at {self.url} could not be reached ({error}); see `graftbox ps` and `logs`."
            ) from error
        if answer.status_code == 403:
            raise TransportError(f"The server at {self.url} refused the key; use the one that `run` printed.")
        if answer.status_code != 200:
            raise TransportError(
                f"The server at {self.url} answered {answer.status_code} to {path}: {_detail(answer)}"
            )
        return answer


def ended_early(log_tail: Callable[[], str] | None = None) -> TransportError:
    """The error of a sandbox that ended before its server answered, with the end of its log."""
    return TransportError("The sandbox ended before its server answered." + _tail(log_tail))


def _tail(log_tail: Callable[[], str] | None) -> str:
    text = log_tail().strip() if log_tail is not None else ""
    return f" The end of its log:\n{text}" if text else " Its log is empty."


def _detail(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:300]


def _object(answer: httpx2.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError as error:
        raise FormatError(f"The server's answer is not JSON: {answer.text[:200]!r}") from error
    if not isinstance(value, dict):
        raise FormatError(f"The server's answer is not an object: {answer.text[:200]!r}")
    return value

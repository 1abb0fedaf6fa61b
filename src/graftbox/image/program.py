"""An engine's own program (podman, ctr): runs it, feeds it, reads from it, and says in words what it said."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

from graftbox.errors import TransportError, UnsupportedError
from graftbox.image.blob import CHUNK

LONGEST_COMPLAINT = 2000


class Program:
    """A program with the arguments that every call begins with."""

    def __init__(self, name: str, *arguments: str, hint: str, env: Mapping[str, str] | None = None) -> None:
        path = shutil.which(name)
        if path is None:
            raise UnsupportedError(f"The program {name} is not installed here. {hint}")
        self.name, self._command, self._env = name, [path, *arguments], env

    def run(self, *arguments: str) -> str:
        """Its output; `TransportError` with its own words if it fails."""
        done = subprocess.run(
            [*self._command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, env=self._env
        )
        if done.returncode:
            raise self._failed(arguments, done.stderr)
        return done.stdout.decode(errors="replace")

    def feed(self, stream: Iterable[bytes], *arguments: str) -> str | None:
        """Writes ``stream`` to its standard input; returns its complaint, or None if it was content."""
        process = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._env,
        )
        assert process.stdin is not None
        assert process.stderr is not None
        said = _Collected(process.stderr)
        try:
            try:
                for chunk in stream:
                    process.stdin.write(chunk)
                process.stdin.close()
            except BrokenPipeError:
                # It has ended early; why is in its complaint.
                pass
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            text = said.text()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stderr.close()
        return (text or f"exit code {process.returncode}") if process.returncode else None

    def read(self, *arguments: str) -> Iterator[bytes]:
        """Its standard output as a stream; `TransportError` at its end if it failed."""
        process = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        said = _Collected(process.stderr)
        ended = False
        try:
            while chunk := process.stdout.read(CHUNK):
                yield chunk
            ended = True
        finally:
            if not ended:
                process.kill()
            process.stdout.close()
            process.wait()
            text = said.text()
            process.stderr.close()
        if process.returncode:
            raise self._failed(arguments, text.encode())

    def _failed(self, arguments: Sequence[str], said: bytes) -> TransportError:
        words = said.decode(errors="replace").strip()[-LONGEST_COMPLAINT:]
        return TransportError(f"{self.name} {' '.join(arguments[:3])} failed: {words or 'it said nothing'}")


class _Collected:
    """The end of a pipe's text, read beside whatever else is done with the program."""

    def __init__(self, pipe: Iterable[bytes]) -> None:
        self._pipe, self._text = pipe, b""
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        for line in self._pipe:
            self._text = (self._text + line)[-LONGEST_COMPLAINT:]

    def text(self) -> str:
        self._thread.join()
        return self._text.decode(errors="replace").strip()

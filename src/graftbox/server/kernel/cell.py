"""One cell: what it has printed and shown so far, in bounded memory, and how it ended."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from graftbox.wire.observations import TRUNCATED

HEAD = TAIL = 512 * 1024
"""Characters that are kept of a cell's beginning and of its end; what is between them is dropped."""
PICTURES = 24 * 1024 * 1024
"""Characters of base64 that are kept of all pictures and other rich output of a cell."""
_PIECE = 64 * 1024
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# What a line held before it was begun anew, as progress bars do.
_OVERWRITTEN = re.compile(r"[^\n]*\r+(?=[^\r\n])")
_LAGGING = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stream:
    """Text printed to ``name``, stdout or stderr."""

    name: str
    text: str

    @property
    def size(self) -> int:
        return len(self.text)

    def to_json(self) -> dict[str, Any]:
        return {"output_type": "stream", "name": self.name, "text": self.text}


@dataclass(frozen=True, slots=True)
class Data:
    """A value or display in several media types; ``result``: it is the value of the cell's last line."""

    bundle: Mapping[str, Any]
    result: bool = False
    display_id: str | None = None

    @property
    def size(self) -> int:
        return sum(len(v) if isinstance(v, str) else len(json.dumps(v)) for v in self.bundle.values())

    @property
    def text(self) -> str:
        """The plainest form that it has."""
        for kind in ("text/plain", "text/markdown", "text/html", "text/latex", "application/json"):
            if kind in self.bundle:
                value = self.bundle[kind]
                return value if isinstance(value, str) else json.dumps(value)
        return ""

    @property
    def picture(self) -> str | None:
        """As a ``data:`` URL."""
        for kind in ("image/png", "image/jpeg", "image/gif", "image/webp"):
            if isinstance(value := self.bundle.get(kind), str):
                return f"data:{kind};base64,{''.join(value.split())}"
        return None

    def to_json(self) -> dict[str, Any]:
        kind = "execute_result" if self.result else "display_data"
        return {"output_type": kind, "data": dict(self.bundle)}


@dataclass(frozen=True, slots=True)
class Trouble:
    """An exception that ended the cell; ``traceback`` includes its last line."""

    name: str
    value: str
    traceback: str

    @property
    def size(self) -> int:
        return len(self.traceback)

    @property
    def text(self) -> str:
        return self.traceback

    def to_json(self) -> dict[str, Any]:
        return {
            "output_type": "error",
            "ename": self.name,
            "evalue": self.value,
            "traceback": plain(self.traceback),
        }


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget all output so far; with ``wait``, once there is new output."""

    wait: bool = False


Output = Stream | Data | Trouble
Event = Output | Clear


@dataclass(frozen=True, slots=True)
class Ended:
    """``status``: ok, error, aborted, or died, which ``how`` says more of. ``cwd``: the kernel's now."""

    status: str
    cwd: str | None = None
    how: str = ""


class Cell:
    """The output of one execution. Events come in order; `done` is set after the last of them."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.done: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.timed_out = False
        self.dropped = 0
        self._head: list[Output] = []
        self._tail: deque[Output] = deque()
        self._head_size = self._tail_size = self._pictures = 0
        self._clearing = False
        self._followers: set[_Follower] = set()

    @property
    def outputs(self) -> list[Output]:
        return [*self._head, *self._tail]

    def add(self, event: Event) -> None:
        """Take the next output."""
        if isinstance(event, Trouble) and self.timed_out and event.name == "KeyboardInterrupt":
            return  # it tells of our interrupt, which the answer speaks of
        for follower in self._followers:
            follower.put(event)
        if isinstance(event, Clear):
            self._clearing = event.wait
            if not event.wait:
                self._clear()
            return
        if self._clearing:
            self._clear()
        for output in _bounded(event):
            self._keep(output)

    def update(self, new: Data) -> None:
        """Put ``new`` in the place of the display that has its id."""
        for place in (self._head, self._tail):
            for index, output in enumerate(place):
                if isinstance(output, Data) and output.display_id == new.display_id:
                    place[index] = replace(new, result=output.result)
        for follower in self._followers:
            follower.put(new)

    def end(self, ended: Ended) -> None:
        if not self.done.done():
            self.done.set_result(ended)
        for follower in self._followers:
            follower.put(None)

    async def follow(self) -> AsyncGenerator[Event | int]:
        """Outputs as they come, from the first; an int is a number of characters that were left out."""
        follower = _Follower()
        if self.dropped:
            before: list[Event | int] = [*self._head, self.dropped, *self._tail]
        else:
            before = [*self.outputs]
        if not self.done.done():
            self._followers.add(follower)
        try:
            for event in before:
                yield event
            while not self.done.done() or follower.waiting:
                if (item := await follower.get()) is None:
                    break
                yield item
        finally:
            self._followers.discard(follower)

    def text(self) -> str:
        """All output as plain text; what was left out is marked."""
        head = "".join(output.text for output in self._head)
        tail = "".join(output.text for output in self._tail)
        return plain(head + TRUNCATED * bool(self.dropped) + tail)

    def pictures(self) -> tuple[str, ...]:
        found = (output.picture for output in self.outputs if isinstance(output, Data))
        return tuple(picture for picture in found if picture)

    def _keep(self, output: Output) -> None:
        if isinstance(output, Data) and output.size > _PIECE:
            self._pictures += output.size
            if self._pictures > PICTURES:
                output = Stream("stderr", f"[A display of {output.size} characters was left out.]\n")
            else:
                (self._tail if self._tail else self._head).append(output)
                return
        if not self._tail and self._head_size + output.size <= HEAD:
            self._head_size += output.size
            _append(self._head, output)
            return
        self._tail_size += output.size
        _append(self._tail, output)
        while self._tail_size > TAIL:
            first = self._tail.popleft()
            self._tail_size -= first.size
            self.dropped += first.size

    def _clear(self) -> None:
        self._head.clear()
        self._tail.clear()
        self._head_size = self._tail_size = self._pictures = self.dropped = 0
        self._clearing = False


class _Follower:
    """Events on their way to a reader; one that lags behind too far misses some."""

    def __init__(self) -> None:
        self.queue: deque[Event | int | None] = deque()
        self.size = 0
        self.news = asyncio.Event()

    @property
    def waiting(self) -> bool:
        return bool(self.queue)

    def put(self, event: Event | None) -> None:
        size = getattr(event, "size", 0)
        if event is not None and self.size + size > _LAGGING:
            missed = self.queue.pop() if self.queue and isinstance(self.queue[-1], int) else 0
            assert isinstance(missed, int)
            self.queue.append(missed + size)
        else:
            self.size += size
            self.queue.append(event)
        self.news.set()

    async def get(self) -> Event | int | None:
        while not self.queue:
            self.news.clear()
            await self.news.wait()
        event = self.queue.popleft()
        self.size -= getattr(event, "size", 0)
        return event


def plain(text: str) -> str:
    """``text`` without control sequences, and with lines that were begun anew as they ended."""
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    return _OVERWRITTEN.sub("", text) if "\r" in text else text


def _bounded(output: Output) -> Iterator[Output]:
    if isinstance(output, Stream) and output.size > _PIECE:
        for start in range(0, output.size, _PIECE):
            yield Stream(output.name, output.text[start : start + _PIECE])
    elif isinstance(output, Trouble) and output.size > _PIECE:
        half = _PIECE // 2
        yield replace(output, traceback=output.traceback[:half] + TRUNCATED + output.traceback[-half:])
    else:
        yield output


def _append(outputs: list[Output] | deque[Output], output: Output) -> None:
    last = outputs[-1] if outputs else None
    both = isinstance(output, Stream) and isinstance(last, Stream) and output.name == last.name
    if both and last is not None and last.size + output.size <= _PIECE:
        outputs[-1] = Stream(output.name, last.text + output.text)  # type: ignore[union-attr]  # a Stream
    else:
        outputs.append(output)

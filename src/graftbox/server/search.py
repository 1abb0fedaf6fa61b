"""Finding files by name and lines by pattern, within limits of time and number."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftbox.server.entries import named
from graftbox.server.identity import Identity
from graftbox.server.request import HTTPError

RIPGREP = "/openhands/bin/oh-rg"
LONGEST_LINE = 2000
"""Characters of a line that are shown."""
_BUFFER = 4 * 1024 * 1024
_LONGEST_COMPLAINT = 4096
_TURN = 100
_FOUND_NOTHING = (0, 1)


@dataclass
class Result:
    """``truncated``: there may be more than what was found, for the reason given."""

    found: list[Any] = field(default_factory=list)
    truncated: str | None = None


def glob(folder: Path, pattern: str, hidden: bool, limit: int, timeout: float) -> Result:
    """Paths below ``folder`` that fit ``pattern``, relative to it. Blocking.

    ``*``, ``?`` and ``[…]`` stay within a name, ``**`` is any number of folders. Without ``hidden`` a leading
    dot must be in the pattern. Links to folders are not followed.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise HTTPError(422, "pattern must name something below the folder.")
    result, seen = Result(), set()
    deadline = time.monotonic() + timeout
    folder.stat()
    for path in _fitting(folder, "", [_compiled(part) for part in parts], hidden):
        if path is not None and path not in seen:
            if len(result.found) == limit:
                result.truncated = "limit"
                break
            seen.add(path)
            result.found.append(path)
        if time.monotonic() > deadline:
            result.truncated = "timeout"
            break
    return result


Part = re.Pattern[str] | None


def _compiled(part: str) -> Part:
    """None stands for ``**``."""
    from fnmatch import translate

    return None if part == "**" else re.compile(translate(part))


def _fitting(folder: Path, prefix: str, parts: Sequence[Part], hidden: bool) -> Iterator[str | None]:
    """Relative paths, and None for every folder looked at, so that the caller can stop."""
    yield None
    first, rest = parts[0], parts[1:]
    if first is None and rest:
        # `**` as no folder at all.
        yield from _fitting(folder, prefix, rest, hidden)
    try:
        with os.scandir(folder) as scan:
            entries = sorted((each.name, each.is_dir(follow_symlinks=False)) for each in scan)
    except OSError:
        return
    for name, is_folder in entries:
        path = prefix + name
        if first is None:
            if name.startswith(".") and not hidden:
                continue
            if not rest:
                yield path
            if is_folder:
                yield from _fitting(folder / name, f"{path}/", parts, hidden)
        elif first.match(name) and (hidden or not name.startswith(".") or _names_dot(first)):
            if not rest:
                yield path
            elif is_folder:
                yield from _fitting(folder / name, f"{path}/", rest, hidden)


def _names_dot(part: re.Pattern[str]) -> bool:
    """Whether the pattern itself begins with a dot, in the form that fnmatch gives it."""
    return part.pattern.startswith(r"(?s:\.")


@dataclass(frozen=True)
class Query:
    """A regular expression, or with ``fixed`` the text itself, to look for in files that fit ``globs``."""

    pattern: str
    fixed: bool = False
    ignore_case: bool = False
    globs: tuple[str, ...] = ()
    hidden: bool = False
    no_ignore: bool = False
    context: int = 0
    limit: int = 1000
    timeout: float = 30.0


def _command(query: Query, what: str) -> list[str]:
    """ripgrep's, or that of a slower search with the same output where there is none."""
    found = RIPGREP if os.access(RIPGREP, os.X_OK) else shutil.which("rg")
    if found is None:
        script = Path(__file__).with_name("slowgrep.py")
        return [sys.executable, "-IB", str(script), json.dumps(vars(query)), what]
    words = [found, "--no-config", "--json", "--sort=path", "--no-messages", "--max-columns=0"]
    words += ["--fixed-strings"] * query.fixed + ["--ignore-case"] * query.ignore_case
    words += ["--hidden"] * query.hidden + ["--no-ignore"] * query.no_ignore
    words += [f"--glob={each}" for each in query.globs] + [f"--context={query.context}"]
    # A glob that a hidden file fits would bring it back.
    words += ["--glob=!.*"] * (bool(query.globs) and not query.hidden)
    return [*words, f"--regexp={query.pattern}", "--", what]


async def grep(query: Query, path: Path, identity: Identity) -> Result:
    """Matching lines below the folder, or in the file, ``path``; paths are relative to the folder.

    What is not UTF-8 in a line is replaced. Raises `HTTPError`, `OSError`.
    """
    folder = await identity.call(path.is_dir)
    command = _command(query, "./" if folder else f"./{path.name}")
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"LANG": "C.UTF-8"},
            cwd=path if folder else path.parent,
            limit=_BUFFER,
            **identity.popen(),
        )
    except OSError as error:
        raise HTTPError(501, f"{command[0]} can't be run as the sandbox's user: {error.strerror}.") from error
    result = Result()
    assert process.stdout is not None
    assert process.stderr is not None
    complaint = asyncio.create_task(_complaint(process.stderr))
    try:
        async with asyncio.timeout(query.timeout):
            result.truncated = await _collected(process.stdout, query.limit, result.found)
            if result.truncated is None:
                await process.wait()
    except TimeoutError:
        result.truncated = "timeout"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        said = await complaint
    if result.truncated is None and process.returncode not in _FOUND_NOTHING and not result.found and said:
        raise HTTPError(422, f"The search failed: {said.decode('utf-8', 'replace').strip()}")
    return result


async def _complaint(stream: asyncio.StreamReader) -> bytes:
    """The first of what is said; the rest is read, so that nobody waits for it to be."""
    said = b""
    while piece := await stream.read(_LONGEST_COMPLAINT):
        said = (said + piece)[:_LONGEST_COMPLAINT]
    return said


async def _collected(stream: asyncio.StreamReader, limit: int, found: list[Any]) -> str | None:
    """Reads ripgrep's messages into ``found`` until the end (None), or the limit."""
    count = lines = 0
    while True:
        lines += 1
        if lines % _TURN == 0:
            # What has arrived is handed out without a pause; others want their turn.
            await asyncio.sleep(0)
        try:
            line = await stream.readline()
        except ValueError:
            # A line of many megabytes: dropped by the reader, and no source text.
            continue
        if not line:
            return None
        try:
            message = json.loads(line)
        except ValueError:
            # The rest of such a line.
            continue
        if message["type"] in ("match", "context"):
            if message["type"] == "match" and (count := count + 1) > limit:
                return "limit"
            found.append(_match(message))


def _match(message: Any) -> dict[str, Any]:
    data = message["data"]
    text = _text(data["lines"])
    told = {
        **named(os.fsdecode(_bytes(data["path"]).removeprefix(b"./"))),
        "line": data["line_number"],
        "text": text.decode("utf-8", "replace").rstrip("\r\n")[:LONGEST_LINE],
        "match": message["type"] == "match",
    }
    spans = [(each["start"], each["end"]) for each in data["submatches"]]
    # Offsets in ripgrep's messages count bytes, those of ours characters of the text.
    told["spans"] = [
        [len(text[:start].decode("utf-8", "replace")), len(text[:end].decode("utf-8", "replace"))]
        for start, end in spans
    ]
    return told


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value["bytes"]) if "bytes" in value else os.fsencode(value["text"])


_text = _bytes

"""Searches like ripgrep where there is none, with the part of its JSON output that is used.

A program of its own: a regular expression that never ends must be killed with its process.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main(query: dict[str, Any], root: Path) -> None:
    text = os.fsencode(query["pattern"])
    try:
        flags = re.IGNORECASE if query["ignore_case"] else 0
        pattern = re.compile(re.escape(text) if query["fixed"] else text, flags)
    except re.error as error:
        print(f"regex parse error: {error}", file=sys.stderr)
        sys.exit(2)
    for path in files(root, query["hidden"], query["globs"]):
        try:
            search(path, pattern, query["context"])
        except OSError:
            continue


def files(root: Path, hidden: bool, globs: list[str]) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for name in sorted(os.listdir(root)) if os.access(root, os.R_OK) else []:  # noqa: PTH208 - names are all it takes
        path = root / name
        if path.is_symlink() or (name.startswith(".") and not hidden):
            continue
        if path.is_dir():
            yield from files(path, hidden, globs)
        elif path.is_file() and wanted(path, globs):
            yield path


def wanted(path: Path, globs: list[str]) -> bool:
    chosen = [each for each in globs if not each.startswith("!")]
    dropped = [each[1:] for each in globs if each.startswith("!")]
    return (not chosen or any(map(path.match, chosen))) and not any(map(path.match, dropped))


def search(path: Path, pattern: re.Pattern[bytes], context: int) -> None:
    lines = path.read_bytes().split(b"\n")
    if b"\0" in lines[0]:
        return
    spans = [[match.span() for match in pattern.finditer(line)] for line in lines]
    if not lines[-1]:
        spans[-1] = []
    hits = [number for number, each in enumerate(spans) if each]
    near = {number + each for number in hits for each in range(-context, context + 1)}
    for number in sorted(near.intersection(range(len(lines)))):
        found = [{"start": start, "end": end} for start, end in spans[number]]
        data: dict[str, Any] = {"path": shown(os.fsencode(path)), "lines": shown(lines[number] + b"\n")}
        data |= {"line_number": number + 1, "submatches": found}
        print(json.dumps({"type": "match" if found else "context", "data": data}), flush=True)


def shown(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"bytes": base64.b64encode(data).decode()}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))

"""Files and folders as the editor shows them: numbered lines, or two levels of names."""

from __future__ import annotations

import os
from pathlib import Path

MAX_RESPONSE = 16_000
_CLIPPED = (
    "<response clipped><NOTE>Due to the max output limit, only part of this file has been shown to you. "
    "You should retry this tool after you have searched inside the file with `grep -n` in order to find "
    "the line numbers of what you are looking for.</NOTE>"
)


def view(path: Path, lines: tuple[int, ...] | None) -> str:
    """What ``view`` says about ``path``; mistakes in the request are part of the text, as ``ERROR:\\n…``."""
    if not path.exists():
        hint = f"The path {path} does not exist. Please provide a valid path."
        return f"ERROR:\nInvalid `path` parameter: {path}. {hint}"
    if path.is_dir():
        if lines:
            return (
                f"ERROR:\nInvalid `view_range` parameter: {list(lines)}. "
                "The `view_range` parameter is not allowed when `path` points to a directory."
            )
        return _folder(path)
    content = path.read_text(encoding="utf-8", errors="strict")
    numbered = content.split("\n")
    first, last = 1, len(numbered)
    if lines is not None:
        if error := _invalid(lines, last):
            return f"ERROR:\nInvalid `view_range` parameter: {list(lines)}. {error}"
        first, last = lines[0], last if lines[1] == -1 else min(lines[1], last)
    body = "\n".join(f"{number:6}\t{line}" for number, line in enumerate(numbered[first - 1 : last], first))
    if len(body) > MAX_RESPONSE:
        body = body[:MAX_RESPONSE] + _CLIPPED
    return f"Here's the result of running `cat -n` on {path}:\n{body}\n"


def _invalid(lines: tuple[int, ...], count: int) -> str | None:
    if len(lines) != 2:
        return "It should be a list of two integers."
    first, last = lines
    if not 1 <= first <= count:
        return f"Its first element `{first}` should be within the range of lines of the file: [1, {count}]."
    if last != -1 and last < first:
        return f"Its second element `{last}` should be greater than or equal to the first element `{first}`."
    return None


def _folder(path: Path) -> str:
    shown: list[str] = []
    hidden = 0
    for entry in os.scandir(path):
        if entry.name.startswith("."):
            hidden += 1
            continue
        shown.append(_named(entry))
        if entry.is_dir(follow_symlinks=False):
            try:
                shown += [_named(child) for child in os.scandir(entry.path) if not child.name.startswith(".")]
            except OSError:
                continue
    listing = "\n".join([f"{path}/", *sorted(shown)])
    text = (
        f"Here's the files and directories up to 2 levels deep in {path}, excluding hidden items:\n{listing}"
    )
    if hidden:
        text += (
            f"\n\n{hidden} hidden files/directories in this directory are excluded. "
            f"You can use 'ls -la {path}' to see them."
        )
    return text


def _named(entry: os.DirEntry[str]) -> str:
    return f"{entry.path}/" if entry.is_dir() else entry.path

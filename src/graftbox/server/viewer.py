"""Files and folders as the editor shows them: numbered lines, or two levels of names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from graftbox.errors import GraftboxError
from graftbox.server.disk import open_regular
from graftbox.server.text import SNIFFED, Text, decoded, is_binary

MAX_RESPONSE = 16_000
"""Characters of a file or folder that are shown."""
MAX_FILE = 10 * 1024 * 1024
"""Bytes of a file that the editor works on, as in the model."""
_CLIPPED = (
    "<response clipped><NOTE>Due to the max output limit, "
    "only part of this {} has been shown to you. {}</NOTE>"
)
_CLIPPED_FILE = _CLIPPED.format(
    "file",
    "You should retry this tool after you have searched inside the file with `grep -n` in order to find "
    "the line numbers of what you are looking for.",
)
_CLIPPED_FOLDER = _CLIPPED.format(
    "directory", "You should use `ls -la` instead to view large directories incrementally."
)
# Kinds that the model shows as Markdown; nothing but `view` may be done to them.
CONVERTED = (".docx", ".xlsx", ".pptx", ".pdf", ".mp3", ".wav", ".m4a", ".flac")


Load = Callable[[Path], tuple[bytes, Text]]


class EditError(Exception):
    """What the editor could not do; the text is the model's and goes to the agent."""


def invalid(parameter: str, value: object, hint: str) -> EditError:
    return EditError(f"Invalid `{parameter}` parameter: {value}. {hint}")


def check_absolute(path: Path, cwd: str) -> None:
    """Raises `EditError`, with the path that was meant if it is one below ``cwd``."""
    if path.is_absolute():
        return
    suggested = Path(cwd, path)
    hint = f" Maybe you meant {suggested}?" if suggested.exists() else ""
    raise invalid("path", path, f"The path should be an absolute path, starting with `/`.{hint}")


def missing(path: Path) -> EditError:
    return invalid("path", path, f"The path {path} does not exist. Please provide a valid path.")


def load(path: Path) -> tuple[bytes, Text]:
    """The file's bytes and text; raises `EditError` for what is no text, too large or not to be read."""
    try:
        with open_regular(path) as file:
            data, size = file.read(MAX_FILE + 1), os.fstat(file.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing(path) from error
    except (OSError, GraftboxError) as error:
        raise EditError(f"Ran into {error} while trying to read {path}") from error
    if len(data) > MAX_FILE:
        large = f"File is too large ({size / 1024 / 1024:.1f}MB)"
        limit = f"Maximum allowed size is {MAX_FILE // 1024 // 1024}MB"
        raise EditError(f"File validation failed for {path}: {large}. {limit}.")
    if is_binary(data[:SNIFFED]):
        reason = "File appears to be binary and this file type cannot be read or edited by this tool."
        raise EditError(f"File validation failed for {path}: {reason}")
    return data, decoded(data)


def view(path: Path, cwd: str, lines: tuple[int, ...] | None, load: Load = load) -> str:
    """What ``view`` says about a file or folder; ``cwd`` only helps to correct a relative path."""
    check_absolute(path, cwd)
    try:
        if path.is_dir():
            return view_folder(path, lines)
    except OSError as error:
        raise EditError(f"Ran into {error} while trying to read {path}") from error
    if path.suffix.lower() in CONVERTED and path.exists():
        reason = f"this sandbox has no converter for {path.suffix} files"
        advice = f"Please use Python code to read {path}"
        raise EditError(f"Error in converting file to Markdown: {reason}. {advice}")
    return view_file(path, load(path)[1], lines)


def numbered(text: str, what: str, first: int = 1) -> str:
    """``text`` with line numbers from ``first``, clipped where it is long."""
    if len(text) > MAX_RESPONSE:
        text = text[:MAX_RESPONSE] + _CLIPPED_FILE
    body = "\n".join(f"{number:6}\t{line}" for number, line in enumerate(text.split("\n"), first))
    return f"Here's the result of running `cat -n` on {what}:\n{body}\n"


def view_file(path: Path, text: Text, lines: tuple[int, ...] | None) -> str:
    """The whole file, or the lines from ``lines[0]`` to ``lines[1]``, both included; -1 is the last."""
    if not lines:
        return numbered(text.content, str(path))
    every = text.lines
    if len(lines) != 2:
        raise invalid("view_range", list(lines), "It should be a list of two integers.")
    first, last = lines
    if not 1 <= first <= len(every):
        within = f"should be within the range of lines of the file: [1, {len(every)}]."
        raise invalid("view_range", list(lines), f"Its first element `{first}` {within}")
    note = ""
    if last > len(every):
        note = f"NOTE: We only show up to {len(every)} since there're only {len(every)} lines in this file.\n"
    if last == -1 or last > len(every):
        last = len(every)
    if last < first:
        least = f"should be greater than or equal to the first element `{first}`."
        raise invalid("view_range", list(lines), f"Its second element `{last}` {least}")
    return note + numbered("".join(every[first - 1 : last]).removesuffix("\n"), str(path), first)


def view_folder(path: Path, lines: tuple[int, ...] | None = None) -> str:
    """Names up to two levels deep; links to folders are followed, what is hidden or not readable is not."""
    if lines:
        hint = "The `view_range` parameter is not allowed when `path` points to a directory."
        raise invalid("view_range", list(lines), hint)
    shown = [str(path)]
    hidden = 0
    for entry in os.scandir(path):
        if entry.name.startswith("."):
            hidden += 1
            continue
        shown.append(entry.path)
        shown += _children(entry)
    listing = "\n".join(sorted(shown)) + "\n"
    if len(listing) > MAX_RESPONSE:
        listing = listing[:MAX_RESPONSE] + _CLIPPED_FOLDER
    marked = [f"{name}/" if Path(name).is_dir() else name for name in listing.strip().split("\n")]
    text = f"Here's the files and directories up to 2 levels deep in {path}, excluding hidden items:\n"
    text += "\n".join(marked)
    if hidden:
        text += (
            f"\n\n{hidden} hidden files/directories in this directory are excluded. "
            f"You can use 'ls -la {path}' to see them."
        )
    return text


def _children(entry: os.DirEntry[str]) -> list[str]:
    try:
        if not entry.is_dir():
            return []
        return [child.path for child in os.scandir(entry.path) if not child.name.startswith(".")]
    except OSError:
        return []

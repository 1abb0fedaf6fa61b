"""Skills that look at files through a window of lines, and search in them; they print what they find."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LINES = 100
"""Lines that the window shows at most."""
_TOO_MANY = 100
_NONE_OPEN = "No file open. Use the open_file function first."


@dataclass
class _Window:
    """The open file, and the line that the window is at."""

    path: Path | None = None
    line: int = 1


_window = _Window()


def open_file(path: str, line_number: int | None = 1, context_lines: int | None = LINES) -> None:
    """Open a file and show the lines around ``line_number``, at most ``context_lines`` (100) of them."""
    if not Path(path).is_file():
        _error(f"File {path} not found.")
        return
    _window.path = Path(path).absolute()
    lines = _lines(_window.path)
    if not isinstance(line_number, int) or not 1 <= line_number <= len(lines):
        _error(f"Line number must be between 1 and {len(lines)}")
        return
    _window.line = line_number
    size = context_lines if context_lines and context_lines >= 1 else LINES
    shown = _shown(lines, min(size, LINES))
    if shown.endswith("more lines below)"):
        shown += f"\n[Use `scroll_down` to view the next {LINES} lines of the file!]"
    print(shown)


def goto_line(line_number: int) -> None:
    """Show the open file around a line."""
    if (lines := _open_lines()) is None:
        return
    if not isinstance(line_number, int) or not 1 <= line_number <= len(lines):
        _error(f"Line number must be between 1 and {len(lines)}.")
        return
    _window.line = line_number
    print(_shown(lines, LINES))


def scroll_down() -> None:
    """Show the next 100 lines of the open file."""
    _scroll(LINES)


def scroll_up() -> None:
    """Show the 100 lines of the open file before these."""
    _scroll(-LINES)


def search_dir(search_term: str, dir_path: str = "./") -> None:
    """Search all files below a folder for a text."""
    if not Path(dir_path).is_dir():
        _error(f"Directory {dir_path} not found")
        return
    found = [
        (path, number, line.strip())
        for path in _files(dir_path)
        if not Path(path).name.startswith(".")
        for number, line in _numbered(path)
        if search_term in line
    ]
    if not found:
        print(f'No matches found for "{search_term}" in {dir_path}')
        return
    count = len({path for path, _, _ in found})
    if count > _TOO_MANY:
        print(
            f'More than {count} files matched for "{search_term}" in {dir_path}. Please narrow your search.'
        )
        return
    _list(search_term, dir_path, [f"{path} (Line {number}): {line}" for path, number, line in found])


def search_file(search_term: str, file_path: str | None = None) -> None:
    """Search a file, by default the open one, for a text."""
    path = file_path if file_path is not None else _window.path
    if path is None:
        _error("No file specified or open. Use the open_file function first.")
        return
    if not Path(path).is_file():
        _error(f"File {path} not found.")
        return
    found = [f"Line {number}: {line.strip()}" for number, line in _numbered(str(path)) if search_term in line]
    _list(search_term, str(path), found)


def find_file(file_name: str, dir_path: str = "./") -> None:
    """Find the files below a folder whose name contains a text."""
    if not Path(dir_path).is_dir():
        _error(f"Directory {dir_path} not found")
        return
    _list(file_name, dir_path, [path for path in _files(dir_path) if file_name in Path(path).name])


def _list(what: str, where: str, found: list[str]) -> None:
    if not found:
        print(f'[No matches found for "{what}" in {where}]')
        return
    print(f'[Found {len(found)} matches for "{what}" in {where}]')
    print("\n".join(found))
    print(f'[End of matches for "{what}" in {where}]')


def _scroll(by: int) -> None:
    if (lines := _open_lines()) is not None:
        _window.line = max(1, min(_window.line + by, len(lines)))
        print(_shown(lines, LINES, centred=False))


def _shown(lines: list[str], size: int, *, centred: bool = True) -> str:
    """The lines around the window's line, or from it on, with what is above and below them."""
    total, half = len(lines), max(1, size // 2)
    start = max(1, _window.line - half) if centred else _window.line
    end = min(total, _window.line + (half if centred else size))
    if start == 1:
        end = min(total, size)
    if end == total:
        start = max(1, end - size + 1)
    above = f"({start - 1} more lines above)" if start > 1 else "(this is the beginning of the file)"
    below = f"({total - end} more lines below)" if end < total else "(this is the end of the file)"
    numbered = [f"{number}|{lines[number - 1]}" for number in range(start, end + 1)]
    return "\n".join([f"[File: {_window.path} ({total} lines total)]", above, *numbered, below])


def _open_lines() -> list[str] | None:
    if _window.path is None or not _window.path.is_file():
        _error(_NONE_OPEN)
        return None
    return _lines(_window.path)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]


def _numbered(path: str) -> Iterator[tuple[int, str]]:
    try:
        with Path(path).open(encoding="utf-8", errors="ignore") as stream:
            yield from enumerate(stream, 1)
    except OSError:
        return


def _files(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names)  # noqa: PTH118 - keeps ./ as it was given


def _error(text: str) -> None:
    print(f"ERROR: {text}")

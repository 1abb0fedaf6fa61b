"""Turns what a program wrote to a terminal into the text that a reader would see.

Not an emulator of a screen: lines have no width, nothing scrolls away. Colours and titles go, a carriage
return overwrites, progress bars leave their last state, moves of the cursor upward reach lines of the same
output. Only a program that takes the whole screen gets one (screen.py): what stands on it is the text, until
the program leaves.
"""

from __future__ import annotations

import re

from graftbox.server.screen import Screen

_STRING = r"\x1b[\]PX^_](?:[^\x07\x1b]|\x1b(?!\\))*(?:\x07|\x1b\\|$)"
_CSI = r"\x1b\[([0-?]*)[ -/]*([@-~])"
_OTHER = r"\x1b[ -/]*[0-~]?"
_TOKEN = re.compile(f"{_STRING}|{_CSI}|{_OTHER}|[\\x00-\\x08\\x0b-\\x1f\\x7f]")
_UNSEEN = r"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]"
_INVISIBLE = re.compile(f"{_STRING}|\\x1b\\[[0-?]*[ -/]*m|\\x1b[()][0-9A-Za-z]|{_UNSEEN}")
_CONTROL = re.compile(r"[\x08\x0b\x0c\r\x1b]")
_FARTHEST = 10_000
_SCREEN = re.compile(r"\x1b\[\?(?:1049|1047|47)[hl]")
_SCREEN_BYTES = re.compile(_SCREEN.pattern.encode())


class Text:
    """Lines being written, and where the cursor is."""

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self.row = 0
        self.column = 0

    def write(self, text: str) -> None:
        first, *more = text.split("\n")
        self._put(first)
        if not more:
            return
        if self.row == len(self.lines) - 1:
            self.lines += more
            self.row, self.column = len(self.lines) - 1, len(more[-1])
            return
        for line in more:
            self._newline()
            self._put(line)

    def _newline(self) -> None:
        self.row += 1
        self.column = 0
        if self.row == len(self.lines):
            self.lines.append("")

    def _put(self, text: str) -> None:
        if not text:
            return
        line = self.lines[self.row]
        if self.column == len(line):
            self.lines[self.row] = line + text
        else:
            padded = line.ljust(self.column)
            self.lines[self.row] = padded[: self.column] + text + padded[self.column + len(text) :]
        self.column += len(text)

    def control(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character in "\x0b\x0c":
            self._newline()

    def move(self, final: str, parameters: str) -> None:
        """Apply the control sequence ``ESC [ parameters final``; those without meaning here are ignored."""
        numbers = [int(part) if part.isdigit() else 0 for part in parameters.split(";")]
        count = min(max(1, numbers[0]), _FARTHEST)
        if final in "ABEF":
            self.row = max(0, self.row - count) if final in "AF" else self.row + count
            self.lines += [""] * (self.row + 1 - len(self.lines))
            self.column = 0 if final in "EF" else self.column
        elif final == "C":
            self.column += count
        elif final == "D":
            self.column = max(0, self.column - count)
        elif final == "G":
            self.column = count - 1
        elif final == "K":
            self._erase_line(numbers[0])
        elif final == "P":
            line = self.lines[self.row]
            self.lines[self.row] = line[: self.column] + line[self.column + count :]
        elif final == "J" and numbers[0] == 0:
            self._erase_line(0)
            del self.lines[self.row + 1 :]

    def _erase_line(self, how: int) -> None:
        line = self.lines[self.row]
        if how == 0:
            self.lines[self.row] = line[: self.column]
        elif how == 1:
            self.lines[self.row] = " " * min(self.column, len(line)) + line[self.column :]
        else:
            self.lines[self.row] = ""


def render(data: bytes, columns: int = 200, rows: int = 50) -> str:
    """The text of terminal output ``data`` (UTF-8; what is not is replaced), lines separated by newlines.

    ``columns`` and ``rows`` are the terminal's size.
    """
    raw = data.decode("utf-8", "replace")
    text = raw.replace("\r\n", "\n")
    if not _CONTROL.search(text):
        return _INVISIBLE.sub("", text)
    if _SCREEN.search(text):
        return _drawn(raw, columns, rows)
    text = re.sub(r"\r+\n", "\n", _INVISIBLE.sub("", text))
    if not _CONTROL.search(text):
        return text
    return _drawn(text, columns, rows)


def _drawn(text: str, columns: int, rows: int) -> str:
    """``text`` after all that moves its cursor."""
    lines = Text()
    canvas: Text | Screen = lines
    position = 0
    for match in _TOKEN.finditer(text):
        canvas.write(text[position : match.start()])
        position = match.end()
        token = match[0]
        if _SCREEN.fullmatch(token):
            canvas = Screen(columns, rows) if token.endswith("h") else lines
        elif match[2]:
            canvas.move(match[2], match[1])
        elif len(token) == 1:
            canvas.control(token)
        elif len(token) == 2 and isinstance(canvas, Screen):
            canvas.escape(token[1])
    canvas.write(text[position:])
    if isinstance(canvas, Screen):
        lines.write("\n" if lines.lines[-1] else "")
        return "\n".join([*lines.lines[:-1], *canvas.lines])
    return "\n".join(lines.lines)


def full_screen(data: bytes) -> int | None:
    """Where in ``data`` a program has taken the whole screen that has not left it since."""
    last = None
    for match in _SCREEN_BYTES.finditer(data):
        last = match.start() if match[0].endswith(b"h") else None
    return last

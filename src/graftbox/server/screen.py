"""The screen of a full-screen program, as vim, less and top draw it: rows of cells and a cursor."""

from __future__ import annotations

from unicodedata import combining, east_asian_width


class Screen:
    """``write``, ``control`` and ``move`` take what the terminal gets; `lines` is what a person sees.

    Known are the sequences that terminal descriptions name for ``screen``; others do nothing.
    """

    def __init__(self, columns: int = 200, rows: int = 50) -> None:
        self.columns, self.rows = columns, rows
        self.cells = [self._blank() for _ in range(rows)]
        self.row = self.column = 0
        self.top, self.bottom = 0, rows - 1
        self.saved = (0, 0)

    @property
    def lines(self) -> list[str]:
        """The rows without what is blank at their ends and at the end of the screen."""
        lines = ["".join(row).rstrip() for row in self.cells]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def write(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._down()
            elif character == "\t":
                self.column = min(self.columns - 1, self.column // 8 * 8 + 8)
            elif combining(character):
                place = max(0, self.column - 1)
                self.cells[self.row][place] += character
            else:
                self._put(character, 2 if east_asian_width(character) in "WF" else 1)

    def _put(self, character: str, width: int) -> None:
        if self.column + width > self.columns:
            self.column = 0
            self._down()
        row = self.cells[self.row]
        row[self.column : self.column + width] = [character, ""][:width]
        self.column += width

    def control(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character in "\x0b\x0c":
            self._down()

    def escape(self, final: str) -> None:
        """``ESC final``."""
        if final == "M":
            if self.row == self.top:
                self._scroll(-1)
            else:
                self.row = max(0, self.row - 1)
        elif final in "DE":
            self._down()
            self.column = 0 if final == "E" else self.column
        elif final == "7":
            self.saved = self.row, self.column
        elif final == "8":
            self.row, self.column = self.saved

    def move(self, final: str, parameters: str) -> None:
        """``ESC [ parameters final``."""
        numbers = [int(part) if part.isdigit() else 0 for part in parameters.split(";")]
        first = max(1, numbers[0])
        second = max(1, numbers[1]) if len(numbers) > 1 else 1
        if final in "Hf":
            self._go(first - 1, second - 1)
        elif final in "ABEF":
            self._go(self.row + (first if final in "BE" else -first), 0 if final in "EF" else self.column)
        elif final in "CD":
            self._go(self.row, self.column + (first if final == "C" else -first))
        elif final in "G`":
            self._go(self.row, first - 1)
        elif final == "d":
            self._go(first - 1, self.column)
        else:
            self._edit(final, numbers, first)

    def _edit(self, final: str, numbers: list[int], first: int) -> None:
        if final == "J":
            self._erase_screen(numbers[0])
        elif final == "K":
            self._erase_line(numbers[0])
        elif final == "r":
            last = numbers[1] if len(numbers) > 1 and numbers[1] else self.rows
            self.top, self.bottom = min(first, self.rows) - 1, min(last, self.rows) - 1
            self._go(0, 0)
        elif final in "LM":
            if self.top <= self.row <= self.bottom:
                self._scroll(-first if final == "L" else first, self.row)
        elif final in "ST":
            self._scroll(first if final == "S" else -first)
        elif final in "@PX":
            self._shift(final, min(first, self.columns))

    def _blank(self) -> list[str]:
        return [" "] * self.columns

    def _go(self, row: int, column: int) -> None:
        self.row = min(max(0, row), self.rows - 1)
        self.column = min(max(0, column), self.columns - 1)

    def _down(self) -> None:
        if self.row == self.bottom:
            self._scroll(1)
        else:
            self.row = min(self.rows - 1, self.row + 1)

    def _scroll(self, count: int, top: int | None = None) -> None:
        """Move the scrolling region's rows, from ``top`` on, up by ``count``, or down."""
        top = self.top if top is None else top
        region = self.cells[top : self.bottom + 1]
        blanks = [self._blank() for _ in range(min(abs(count), len(region)))]
        kept = region[len(blanks) :] if count > 0 else region[: len(region) - len(blanks)]
        self.cells[top : self.bottom + 1] = [*kept, *blanks] if count > 0 else [*blanks, *kept]

    def _erase_screen(self, how: int) -> None:
        if how == 0:
            self._erase_line(0)
        elif how == 1:
            self._erase_line(1)
        rows = {0: range(self.row + 1, self.rows), 1: range(self.row)}.get(how, range(self.rows))
        for row in rows:
            self.cells[row] = self._blank()

    def _erase_line(self, how: int) -> None:
        begin = 0 if how else min(self.column, self.columns)
        end = self.column + 1 if how == 1 else self.columns
        self.cells[self.row][begin:end] = [" "] * (min(end, self.columns) - begin)

    def _shift(self, how: str, count: int) -> None:
        row, place = self.cells[self.row], self.column
        blanks = [" "] * count
        if how == "@":
            row = [*row[:place], *blanks, *row[place:]]
        elif how == "P":
            row = [*row[:place], *row[place + count :], *blanks]
        else:
            row = [*row[:place], *blanks, *row[place + count :]]
        self.cells[self.row] = row[: self.columns]

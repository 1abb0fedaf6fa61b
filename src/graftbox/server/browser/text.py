"""A page as plain text with Markdown's marks, in the form that OpenHands' ``browse`` has always returned.

That form came about by a chain of tools, which is why its white space is peculiar: every piece of text has a
blank before and behind it. Clients' agents were trained and prompted on it, so it stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_PARAGRAPHS = frozenset(("p", "div"))
_SILENT = frozenset(("head", "style", "script", "noscript", "template"))
_STRESS = {"em": "_", "i": "_", "u": "_", "b": "**", "strong": "**", "del": "~~", "strike": "~~", "s": "~~"}
_CODE = frozenset(("code", "kbd", "tt"))
_ESCAPES = (
    (re.compile(r"\\(?=[\\`*_{}\[\]()#+\-.!])"), r"\\\\"),
    (re.compile(r"^(\s*\d+)\.(?=\s)", re.MULTILINE), r"\1\\."),
    (re.compile(r"^(\s*)\+(?=\s)", re.MULTILINE), r"\1\\+"),
    (re.compile(r"^(\s*)-(?=[\s-])", re.MULTILINE), r"\1\\-"),
)
_NEEDS_BLANK = re.compile(r"[^][(){}\s.!?]")


def as_text(content: Iterable[tuple[str, Any]]) -> str:
    """``content`` as `observation.content` gives it."""
    writer = _Writer()
    for kind, value in content:
        if kind == "text":
            writer.text(value)
        elif kind == "end":
            writer.end(value)
        elif value[0].startswith("::"):
            # What a style sheet adds has no tag of its own, and has come through as text.
            writer.text(f"<{value[0]}>")
        else:
            writer.start(*value)
    return writer.finish()


class _Writer:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.breaks = 0  # lines to begin before the next output
        self.line_end = ""  # what ends a line by force
        self.blank = False  # a blank to write before it
        self.fresh = True  # nothing is due before it: a list item or the page begins
        self.silent = 0
        self.quotes = 0
        self.lists: list[list[Any]] = []  # [tag, number of the last item]
        self.after_list = False
        self.links: list[dict[str, str | None] | None] = []
        self.link_open = False  # the next text opens its bracket
        self.link_empty = False
        self.verbatim = 0
        self.verbatim_begins = False
        self.code = False
        self.stressed = False
        self.after_stress = False
        self.before = ""  # the text before
        self.columns = 0
        self.first_row = False
        self.next_cell = False
        self.tag = ""
        self.after_tag = True

    def start(self, name: str, attributes: dict[str, str | None]) -> None:
        self._between()
        self.tag = name
        if name in _SILENT:
            self.silent += 1
        if name == "body":
            self.silent = 0
        if handle := _STARTS.get(name):
            handle(self, name, attributes)
        elif name in _STRESS:
            self._stress(_STRESS[name], opens=True)
        elif name in _PARAGRAPHS and not (name == "div" and self.links):
            self._break(2)
        if name not in ("ul", "ol"):
            self.after_list = False

    def end(self, name: str) -> None:
        if name.startswith("::"):
            return
        self._between()
        if name in _SILENT and self.silent:
            self.silent -= 1
        if handle := _ENDS.get(name):
            handle(self)
        elif name in _STRESS:
            self._stress(_STRESS[name], opens=False)
        elif name in _HEADINGS or (name in _PARAGRAPHS and not (name == "div" and self.links)):
            self._break(2)
        if name not in ("ul", "ol"):
            self.after_list = False

    def text(self, text: str) -> None:
        if not self.verbatim and self.tag != "textarea":
            if not (text := text.strip()):
                return
            text = f" {text} " if self.after_tag else f"{text} "
        self.after_tag = False
        self._data(text)

    def finish(self) -> str:
        self.silent = 0
        self.parts.append("\n")
        return "".join(self.parts).replace("\xa0", " ")

    # Output

    def _between(self) -> None:
        """The white space between two tags."""
        if self.after_tag and not self.verbatim:
            self._data(" ")
        self.after_tag = True

    def _data(self, text: str) -> None:
        if not text:
            return
        if self.stressed:
            text = text.strip()
            if not text:
                return
            self.stressed = False
            self.after_stress = True
        elif self.after_stress:
            if _NEEDS_BLANK.match(text) and self.tag not in ("a", "code", "pre"):
                text = f" {text}"
            self.after_stress = False
        if self.link_open:
            self._write("[")
            self.link_open = self.link_empty = False
        if not self.code and not self.verbatim:
            for pattern, instead in _ESCAPES:
                text = pattern.sub(instead, text)
        self.before = text
        if not self.verbatim:
            text = re.sub(r"\s+", " ", text)
            if text.startswith(" "):
                self.blank = True
                text = text[1:]
        if text:
            self._write(text)

    def _write(self, text: str, *, forced: bool = False) -> None:
        if self.silent:
            return
        prefix = ">" * self.quotes
        if self.quotes and not (forced and text.startswith(">")):
            prefix += " "
        if self.verbatim:
            prefix += "    " * (len(self.lists) or 1)
            if self.verbatim_begins and not text.startswith("\n"):
                text = f"\n{text}"
            text = text.replace("\n", f"\n{prefix}")
            if self.verbatim_begins and self.lists:
                text = text.lstrip("\n")
            self.verbatim_begins = False
        if self.fresh:
            self.blank = self.fresh = False
            self.breaks = 0
        if self.breaks:
            self.parts.append(f"{self.line_end}\n{prefix}" * self.breaks)
            self.blank = False
            self.line_end = ""
        if self.blank:
            if not self.parts or not self.parts[-1].endswith("\n"):
                self.parts.append(" ")
            self.blank = False
        self.breaks = 0
        self.parts.append(text)

    def _break(self, lines: int) -> None:
        self.breaks = lines if lines == 2 else self.breaks or 1

    # Elements

    def _stress(self, mark: str, *, opens: bool) -> None:
        if opens and self.before and not self.before[-1].isspace() and self.before[-1].isalnum():
            mark = f" {mark}"
            self.before += " "
        self._write(mark)
        self.stressed = opens

    def _heading(self, name: str, _: dict[str, str | None]) -> None:
        self._break(2)
        self._write("#" * _HEADINGS[name] + " ")

    def _line(self, *_: Any) -> None:
        self._write("  \n> " if self.quotes else "  \n")

    def _rule(self, *_: Any) -> None:
        self._break(2)
        self._write("* * *")
        self._break(2)

    def _quote(self, *_: Any) -> None:
        self._break(2)
        self._write("> ", forced=True)
        self.fresh = True
        self.quotes += 1

    def _quote_end(self) -> None:
        self.quotes = max(0, self.quotes - 1)
        self._break(2)

    def _code(self, *_: Any) -> None:
        if not self.verbatim:
            self._write("`")
            self.code = not self.code

    def _quotation(self, *_: Any) -> None:
        self._write('"')

    def _verbatim(self, *_: Any) -> None:
        self.verbatim_begins = True
        self.verbatim += 1
        self._break(2)

    def _verbatim_end(self) -> None:
        self.verbatim = max(0, self.verbatim - 1)
        self._break(2)

    def _link(self, _: str, attributes: dict[str, str | None]) -> None:
        target = attributes.get("href")
        if target is None or target.startswith("#"):
            self.links.append(None)
            return
        self.links.append(attributes)
        self.link_open = self.link_empty = True

    def _link_end(self) -> None:
        attributes = self.links.pop() if self.links else None
        if attributes is None:
            return
        if self.link_empty:
            self._write("[")
            self.link_open = self.link_empty = False
        self.breaks = 0
        title = attributes.get("title") or ""
        named = f' "{title}"' if title.strip() else ""
        target = re.sub(r"([\\\[\]()])", r"\\\1", (attributes["href"] or "").strip())
        self._write(f"]({target}{named})")

    def _list(self, name: str, attributes: dict[str, str | None]) -> None:
        if not self.lists and not self.after_list:
            self._break(2)
        first = attributes.get("start") or "1"
        self.lists.append([name, int(first) - 1 if first.isdecimal() else 0])

    def _list_end(self) -> None:
        if self.lists:
            self.lists.pop()
            if not self.lists:
                self._write("\n")
        self.after_list = True

    def _item(self, *_: Any) -> None:
        self._break(1)
        current: list[Any] = self.lists[-1] if self.lists else ["ul", 0]
        current[1] += 1
        indent = "  " * len(self.lists) if self.lists else ""
        self._write(indent + ("* " if current[0] == "ul" else f"{current[1]}. "))
        self.fresh = True

    def _item_end(self) -> None:
        self._break(1)

    def _definitions(self, *_: Any) -> None:
        self._break(2)

    def _definition(self, *_: Any) -> None:
        self._write("    ")

    def _table(self, *_: Any) -> None:
        self.first_row = True

    def _row(self, *_: Any) -> None:
        self.columns = 0

    def _row_end(self) -> None:
        self.next_cell = False
        self._end_line()
        if self.first_row:
            self._write("|".join(["---"] * self.columns))
            self._end_line()
            self.first_row = False

    def _end_line(self) -> None:
        self._break(1)
        self.line_end = "  "

    def _cell(self, *_: Any) -> None:
        self.columns += 1
        if self.next_cell:
            self._write("| ")
        self.next_cell = True


_STARTS: dict[str, Callable[[_Writer, str, dict[str, str | None]], None]] = {
    **dict.fromkeys(_HEADINGS, _Writer._heading),
    **dict.fromkeys(_CODE, _Writer._code),
    "pre": _Writer._verbatim,
    **dict.fromkeys(("ul", "ol"), _Writer._list),
    **dict.fromkeys(("td", "th"), _Writer._cell),
    "br": _Writer._line,
    "hr": _Writer._rule,
    "blockquote": _Writer._quote,
    "q": _Writer._quotation,
    "a": _Writer._link,
    "li": _Writer._item,
    "dl": _Writer._definitions,
    "dd": _Writer._definition,
    "table": _Writer._table,
    "tr": _Writer._row,
}
_ENDS: dict[str, Callable[[_Writer], None]] = {
    **dict.fromkeys(_CODE, _Writer._code),
    **dict.fromkeys(("ul", "ol"), _Writer._list_end),
    **dict.fromkeys(("dt", "dd", "li"), _Writer._item_end),
    "pre": _Writer._verbatim_end,
    "blockquote": _Writer._quote_end,
    "q": _Writer._quotation,
    "a": _Writer._link_end,
    "tr": _Writer._row_end,
}

"""Bytes of a text file as text and back: encoding, byte order mark and line ends stay what they are."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

SNIFFED = 1024
"""Bytes from the start of a file that decide whether it is text, as many as the model looks at."""
_GUESSED = 64 * 1024
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = bytes({*range(32), 127} - set(b"\n\r\t\f\b\x1b"))
_CJK = ("shift_jis", "euc_jp", "euc_kr", "gb18030", "big5")
_ENOUGH = 0.85
_CYRILLIC = ("cp1251", "koi8_r", "cp866")
_LONG_RUN = 2.5
_LONG_WORD = 1.8


@dataclass(frozen=True)
class Text:
    """``raw`` has the line ends as they are stored; ``mark`` is the byte order mark, ``encoding`` a codec."""

    raw: str
    encoding: str = "utf-8"
    mark: bytes = b""

    @cached_property
    def content(self) -> str:
        """With every line end as a single newline."""
        return unified(self.raw)

    @property
    def lines(self) -> list[str]:
        """Of `content`, each with its newline; the last may lack one."""
        pieces = self.content.split("\n")
        return [piece + "\n" for piece in pieces[:-1]] + [pieces[-1]] * bool(pieces[-1])

    @property
    def newline(self) -> str:
        """The line end that most lines have."""
        pairs = self.raw.count("\r\n")
        if "\n" not in self.raw and "\r" in self.raw:
            return "\r"
        return "\r\n" if pairs > self.raw.count("\n") - pairs else "\n"

    def replaced(self, start: int, end: int, new: str) -> Text:
        """With ``content[start:end]`` as ``new``, which gets this text's line ends; the rest is untouched."""
        if self.newline != "\n":
            new = unified(new).replace("\n", self.newline)
        return Text(self.raw[: self._stored(start)] + new + self.raw[self._stored(end) :], *self._form)

    def encoded(self) -> bytes:
        """The file's bytes; raises `UnicodeEncodeError` for what the encoding does not have."""
        return self.mark + self.raw.encode(self.encoding)

    @property
    def _form(self) -> tuple[str, bytes]:
        return self.encoding, self.mark

    def _stored(self, position: int) -> int:
        """Where the character ``content[position]`` stands in ``raw``."""
        return position + bisect_left(self._pairs, position)

    @cached_property
    def _pairs(self) -> list[int]:
        return [match.start() - index for index, match in enumerate(re.finditer("\r\n", self.raw))]


def unified(text: str) -> str:
    """``text`` with line ends of every kind as newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def decoded(data: bytes) -> Text:
    """``data`` as text; what is in no known encoding is taken for Latin-1, which loses nothing."""
    mark, encoding = next((known for known in _MARKS if data.startswith(known[0])), (b"", ""))
    body = data[len(mark) :]
    for candidate in (encoding,) if encoding else ("utf-8", guessed(body[:_GUESSED])):
        try:
            raw = body.decode(candidate)
            if candidate.startswith("utf") or raw.encode(candidate) == body:
                return Text(raw, candidate, mark)
        except UnicodeError:
            continue
    return Text(data.decode("latin-1"), "latin-1")


def is_binary(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is no text: as the model judges, without its guesses.

    Text in UTF-8 may hold some control characters, as terminal logs do; text in an older encoding has none.
    """
    if not start or any(start.startswith(mark) for mark, _ in _MARKS):
        return False
    if b"\0" in start:
        return True
    controls = len(start) - len(start.translate(None, _CONTROLS))
    return controls > len(start) * (0.3 if _decodes(start, "utf-8") else 0.01)


def guessed(sample: bytes) -> str:
    """The most likely codec of text that is not UTF-8.

    Asian encodings are told apart by the characters that a text in them must have, Cyrillic ones by their
    small letters. All others are alike: only the language could tell one from another.
    """
    for codec in _CJK:
        if _decodes(sample, codec) and _is_native(sample.decode(codec, "ignore"), codec):
            return codec
    runs = re.findall(rb"[\x80-\xff]+", sample)
    if runs and sum(map(len, runs)) / len(runs) >= _LONG_RUN:
        return max(_CYRILLIC, key=lambda codec: _small_letters(sample, codec))
    return "cp1252" if _decodes(sample, "cp1252") else "latin-1"


def _is_native(text: str, codec: str) -> bool:
    """Whether the characters beyond ASCII are those of the language that ``codec`` was made for."""
    foreign = [character for character in text if character > "\x7f"]
    # A lone letter with an accent and the letter after it make one character of these encodings.
    if len(foreign) < _LONG_WORD * len(re.findall("[^\0-\x7f]+", text)) or not foreign:
        return False
    if codec in ("shift_jis", "euc_jp"):
        kana = _between(foreign, "\u3040", "\u30ff")
        return kana >= 0.2 and kana + _between(foreign, "\u4e00", "\u9fff") + _punctuation(foreign) >= _ENOUGH
    if codec == "euc_kr":
        return _between(foreign, "\uac00", "\ud7a3") + _punctuation(foreign) >= 0.95
    if codec == "big5":
        return _between(foreign, "\u4e00", "\u9fff") + _punctuation(foreign) >= _ENOUGH
    # The ordinary characters of GB 2312; its wide extension takes nearly any bytes.
    ordinary = sum(1 for each in foreign if 0xB0 <= each.encode("gb18030")[0] <= 0xD7 and _in_gb2312(each))
    return ordinary / len(foreign) + _punctuation(foreign) >= _ENOUGH


def _in_gb2312(character: str) -> bool:
    try:
        return bool(character.encode("gb2312"))
    except UnicodeEncodeError:
        return False


def _between(characters: list[str], first: str, last: str) -> float:
    return sum(first <= each <= last for each in characters) / len(characters)


def _punctuation(characters: list[str]) -> float:
    return (
        _between(characters, "\u3000", "\u303f")
        + _between(characters, "\uff01", "\uff5e")
        + _between(characters, "\u2010", "\u2030")
    )


def _small_letters(sample: bytes, codec: str) -> int:
    text = sample.decode(codec, "replace")
    return sum("а" <= each <= "я" for each in text) - sum("А" <= each <= "Я" for each in text)  # noqa: RUF001 - Cyrillic is meant


def _decodes(sample: bytes, codec: str) -> bool:
    """Whether ``sample``, whose last character may be cut, is in this encoding."""
    try:
        codecs.getincrementaldecoder(codec)().decode(sample, final=False)
    except UnicodeDecodeError:
        return False
    return True

"""Where one bash command ends and the next begins: a scanner for text of several lines.

It knows quoting, here-documents, comments, substitutions and the reserved words that hold lines together, not
the whole grammar; text that it can't follow counts as one command, and bash has the last word.
"""

from __future__ import annotations

import re

_WORD_END = frozenset(" \t\n;&|()<>")
_OPENING = {
    "if": "fi",
    "while": "done",
    "until": "done",
    "for": "done",
    "select": "done",
    "case": "esac",
    "{": "}",
}
_BEFORE_COMMAND = frozenset(
    ("if", "while", "until", "then", "do", "else", "elif", "!", "time", "{", "coproc")
)
_CONNECTORS = ("&&", "||", "|&", "|")
_HEREDOC = re.compile(r"<<-?[ \t]*(?=[^<\s])")


class _UnclearError(Exception):
    """The text can't be followed."""


def split_commands(text: str) -> list[str]:
    """The commands in ``text`` that newlines separate, comments apart; the whole text when in doubt."""
    if "\n" not in text:
        return [text]
    try:
        return _Scanner(text).commands() or [text]
    except _UnclearError:
        return [text]


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.open: list[str] = []
        self.heredocs: list[tuple[str, bool]] = []
        self.at_command = True
        self.goes_on = False
        self.naming = False

    def commands(self) -> list[str]:
        found: list[str] = []
        start, begun = 0, False
        while self.position < len(self.text):
            character = self.text[self.position]
            if character == "\n":
                end = self.position
                self._newline()
                if begun and not self.open and not self.goes_on:
                    found.append(self.text[start : self.position if self.position > end + 1 else end].strip())
                    begun = False
                if not begun:
                    start = self.position
            elif character in " \t":
                self.position += 1
            elif self.text.startswith("\\\n", self.position):
                self.position += 2
            elif character == "#":
                self._skip_to("\n")
                if not begun:
                    start = self.position
            else:
                begun = True
                self.goes_on = False
                self._token(character)
        if self.open or self.heredocs or self.goes_on:
            raise _UnclearError
        if begun:
            found.append(self.text[start:].strip())
        return found

    def _newline(self) -> None:
        self.position += 1
        self.at_command = True
        for word, indented in self.heredocs:
            while self.position < len(self.text):
                start = self.position
                self._skip_to("\n")
                line = self.text[start : self.position]
                self.position += 1
                if (line.lstrip("\t") if indented else line) == word:
                    break
        self.heredocs.clear()
        self.position = min(self.position, len(self.text))

    def _token(self, character: str) -> None:
        if character in "<>":
            self._redirection()
        elif character == "(":
            self._parenthesis()
        elif character == ")":
            if self.open and self.open[-1] == ")":
                self.open.pop()
                self.at_command = False
            elif self.open and self.open[-1] == "esac":
                self.at_command = True
            else:
                raise _UnclearError
            self.position += 1
        elif character in ";&|":
            self._operator()
        else:
            self._word()

    def _operator(self) -> None:
        rest = self.text[self.position : self.position + 3]
        if rest.startswith("&>"):
            self.position += 3 if rest == "&>>" else 2
            return
        connector = next((word for word in _CONNECTORS if rest.startswith(word)), None)
        if connector:
            self.goes_on = True
            self.position += len(connector)
        else:
            self.position += next(
                len(word) for word in (";;&", ";;", ";&", ";", "&") if rest.startswith(word)
            )
        self.at_command = True

    def _redirection(self) -> None:
        if self.text.startswith(("<(", ">("), self.position):
            self.position += 2
            self._substitution()
        elif self.text.startswith("<<<", self.position):
            self.position += 3
        elif match := _HEREDOC.match(self.text, self.position):
            self.position = match.end()
            word = self._raw_word()
            self.heredocs.append((re.sub(r"\\(.)|[\"']", r"\1", word), match[0].startswith("<<-")))
        else:
            self.position += (
                2 if self.text[self.position + 1 : self.position + 2] in (">", "&", "|", "<") else 1
            )

    def _parenthesis(self) -> None:
        if self.text.startswith("((", self.position) and (self.at_command or self._after_for()):
            end = self.text.find("))", self.position)
            if end < 0:
                raise _UnclearError
            self.position = end + 2
            self.at_command = False
            return
        match = re.compile(r"\(\s*\)").match(self.text, self.position)
        if match and not self.at_command:
            # The body of a function may stand on the next line.
            self.position = match.end()
            self.goes_on = self.at_command = True
            return
        self.open.append(")")
        self.position += 1
        self.at_command = True

    def _after_for(self) -> bool:
        return bool(re.search(r"\bfor\s*$", self.text[: self.position]))

    def _word(self) -> None:
        command = self.at_command
        word = self._raw_word()
        self.at_command = False
        if self.naming:
            self.naming = False
            self.goes_on = self.at_command = True
        elif command and word == "[[":
            self._condition()
        elif command:
            self._reserved(word)

    def _reserved(self, word: str) -> None:
        if word in _OPENING:
            self.open.append(_OPENING[word])
        elif word in ("fi", "done", "esac", "}"):
            if not self.open or self.open[-1] != word:
                raise _UnclearError
            self.open.pop()
        elif word == "function":
            self.naming = True
        if word in _BEFORE_COMMAND:
            self.at_command = True

    def _condition(self) -> None:
        """Pass over ``[[ … ]]``, in which operators and parentheses mean something else."""
        while self.position < len(self.text):
            if self.text[self.position] in _WORD_END:
                self.position += 1
            elif self._raw_word() == "]]":
                return
        raise _UnclearError

    def _raw_word(self) -> str:
        start = self.position
        while self.position < len(self.text):
            character = self.text[self.position]
            if character in _WORD_END:
                if character != "(" or self.text[self.position - 1] not in "=?*+@!" or self.position == start:
                    break
                self.position += 1
                self._substitution()
            else:
                self._piece(character)
        return self.text[start : self.position]

    def _piece(self, character: str) -> None:
        if character == "\\":
            self.position += 2
        elif character == "'":
            self.position += 1
            self._skip_past("'")
        elif character == '"':
            self.position += 1
            self._until('"')
        elif character == "`":
            self.position += 1
            self._until("`")
        elif character == "$":
            self._dollar()
        else:
            self.position += 1

    def _dollar(self) -> None:
        following = self.text[self.position + 1 : self.position + 2]
        self.position += 2
        if following == "'":
            while not self.text.startswith("'", self.position):
                if self.position >= len(self.text):
                    raise _UnclearError
                self.position += 2 if self.text[self.position] == "\\" else 1
            self.position += 1
        elif following == '"':
            self._until('"')
        elif following == "{":
            self._until("}")
        elif following == "(":
            self._substitution()
        else:
            self.position -= 1

    def _until(self, end: str) -> None:
        """Pass ``end``, minding the quoting and the substitutions inside."""
        while self.position < len(self.text):
            character = self.text[self.position]
            if character == end:
                self.position += 1
                return
            if (character == "'" and end != "}") or (character == '"' and end == '"'):
                self.position += 1
            else:
                self._piece(character)
        raise _UnclearError

    def _substitution(self) -> None:
        """Pass the parenthesis that is open, by counting; comments and cases inside are not followed."""
        depth = 1
        while self.position < len(self.text):
            character = self.text[self.position]
            if character in "()":
                depth += 1 if character == "(" else -1
                self.position += 1
                if depth == 0:
                    return
            else:
                self._piece(character)
        raise _UnclearError

    def _skip_to(self, end: str) -> None:
        found = self.text.find(end, self.position)
        self.position = len(self.text) if found < 0 else found

    def _skip_past(self, end: str) -> None:
        found = self.text.find(end, self.position)
        if found < 0:
            raise _UnclearError
        self.position = found + 1

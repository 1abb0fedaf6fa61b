"""The agent's text editor: view, create, str_replace, insert and undo_edit, in the words of openhands-aci.

Where the model harms a file, we don't: line ends, encoding, mode and owner stay, a write is atomic, and a
line inserted behind a last line without a newline does not grow onto it.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from graftbox.errors import GraftboxError
from graftbox.server import disk
from graftbox.server.history import History
from graftbox.server.identity import Identity
from graftbox.server.text import Text, decoded
from graftbox.server.viewer import (
    CONVERTED,
    EditError,
    check_absolute,
    invalid,
    load,
    missing,
    numbered,
    view,
)
from graftbox.wire.actions import Edit, InvalidActionError
from graftbox.wire.observations import EditResult, Failure

T = TypeVar("T")

CONTEXT = 4
"""Lines shown before and after a change."""
_EXACT_DIFF = 20_000  # lines, before and after together
_COMMANDS = ("view", "create", "str_replace", "insert", "undo_edit")
_REVIEW = "Review the changes and make sure they are as expected"


@dataclass(frozen=True)
class Outcome:
    """What one command says, and the text before and after it where it changed one."""

    message: str
    before: str | None = None
    after: str | None = None


@dataclass
class Staged:
    """Changes decided on and not yet written: new and present contents by path, and what undo will need."""

    contents: dict[Path, bytes] = field(default_factory=dict)
    present: dict[Path, bytes | None] = field(default_factory=dict)
    former: list[tuple[Path, bytes]] = field(default_factory=list)
    undone: list[Path] = field(default_factory=list)

    def load(self, path: Path) -> tuple[bytes, Text]:
        if path in self.contents:
            data = self.contents[path]
            return data, decoded(data)
        return load(path)

    def change(self, path: Path, before: bytes | None, after: Text) -> None:
        """``before`` None: there is no such file yet."""
        try:
            content = after.encoded()
        except UnicodeEncodeError as error:
            raise EditError(f"Ran into {error} while trying to write to {path}") from error
        self.present.setdefault(path, before)
        self.contents[path] = content
        # Undoing `create` leaves the file with what it was created with, as in the model.
        self.former.append((path, content if before is None else before))


class Editor:
    """One edit at a time, so that no two of them change one file from the same state."""

    def __init__(self) -> None:
        self.history = History()
        self.lock = asyncio.Lock()

    async def run(self, action: Edit, cwd: str, identity: Identity) -> EditResult | Failure:
        """The command's answer; mistakes in it are its text, as ``ERROR:\\n…``."""
        return (await self.run_all([action], cwd, identity))[0]

    async def run_all(self, actions: Sequence[Edit], cwd: str, identity: Identity) -> list[EditResult]:
        """Several edits, each seeing the ones before it: all of them, or, once one fails, none.

        The answers end with the one that failed.
        """
        if any(action.impl_source != "oh_aci" for action in actions):
            # Clients make these edits themselves, with a language model. The answer is that of our model.
            raise InvalidActionError("")
        async with self.lock:
            return await identity.call(self._run_all, actions, cwd)

    def _run_all(self, actions: Sequence[Edit], cwd: str) -> list[EditResult]:
        staged = Staged()
        answers: list[EditResult] = []
        for action in actions:
            try:
                answers.append(_answer(action, self._outcome(action, cwd, staged)))
            except EditError as error:
                answers.append(_answer(action, Outcome(f"ERROR:\n{error}")))
                return answers
        try:
            _write(staged)
        except EditError as error:
            return [*answers[:-1], _answer(actions[-1], Outcome(f"ERROR:\n{error}"))]
        for path, before in staged.former:
            self.history.add(path, before)
        for path in staged.undone:
            self.history.drop(path)
        return answers

    def _outcome(self, action: Edit, cwd: str, staged: Staged) -> Outcome:
        line = _number(action.insert_line)
        path = Path(action.path)
        if "\0" in action.path:
            raise invalid("path", repr(action.path), "It contains a null character.")
        if action.command == "view":
            return Outcome(view(path, cwd, action.view_range, staged.load))
        try:
            _check(action.command, path, cwd, staged)
        except OSError as error:
            raise EditError(f"Ran into {error} while trying to read {path}") from error
        match action.command:
            case "create":
                return _create(path, _given(action, "file_text", action.file_text), staged)
            case "str_replace":
                old = _given(action, "old_str", action.old_str)
                return _str_replace(path, old, action.new_str, staged)
            case "insert":
                at = _given(action, "insert_line", line)
                return _insert(path, at, _given(action, "new_str", action.new_str), staged)
            case _:
                return self._undo(path, staged)

    def _undo(self, path: Path, staged: Staged) -> Outcome:
        if path in staged.contents:
            raise EditError(f"The edits of {path} in this request can't be undone in it.")
        present, now = staged.load(path)
        data = self.history.last(path)
        if data is None:
            raise EditError(f"No edit history found for {path}.")
        former = decoded(data)
        staged.present[path], staged.contents[path] = present, data
        staged.undone.append(path)
        shown = numbered(former.content, str(path))
        return Outcome(f"Last edit to {path} undone successfully. {shown}", now.content, former.content)


def _number(line: int | str | None) -> int | None:
    try:
        return int(line) if isinstance(line, str) else line
    except ValueError as error:
        raise EditError(f"Invalid insert_line value: '{line}'. Expected an integer.") from error


def _given(action: Edit, parameter: str, value: T | None) -> T:
    if value is None:
        raise EditError(f"Parameter `{parameter}` is required for command: {action.command}.")
    return value


def _check(command: str, path: Path, cwd: str, staged: Staged) -> None:
    """That there is a path to which the command may be done."""
    check_absolute(path, cwd)
    exists = path in staged.contents or path.exists()
    if command == "create" and exists:
        hint = f"File already exists at: {path}. Cannot overwrite files using command `create`."
        raise invalid("path", path, hint)
    if command != "create" and not exists:
        raise missing(path)
    if path.is_dir():
        hint = f"The path {path} is a directory and only the `view` command can be used on directories."
        raise invalid("path", path, hint)
    if path.suffix.lower() in CONVERTED:
        hint = (
            f"The path {path} points to a binary file ({path.suffix}) and only the `view` command can be used"
        )
        raise invalid("path", path, f"{hint} on supported binary files.")
    if command not in _COMMANDS:
        allowed = ", ".join(_COMMANDS)
        raise EditError(
            f"Unrecognized command {command}. The allowed commands for the oh_editor tool are: {allowed}"
        )


def _create(path: Path, content: str, staged: Staged) -> Outcome:
    staged.change(path, None, Text(content))
    return Outcome(f"File created successfully at: {path}", None, content)


def _str_replace(path: Path, old: str, new: str | None, staged: Staged) -> Outcome:
    if new == old:
        hint = "No replacement was performed. `new_str` and `old_str` must be different."
        raise invalid("new_str", new, hint)
    new = new or ""
    data, text = staged.load(path)
    found = _occurrences(text.content, old)
    if not found:
        # White space around it is what language models most often get wrong.
        old, new = old.strip(), new.strip()
        found = _occurrences(text.content, old)
    if not found:
        raise EditError(f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
    if len(found) > 1:
        lines = sorted({text.content.count("\n", 0, start) + 1 for start in found})
        raise EditError(
            f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines {lines}. "
            "Please ensure it is unique."
        )
    changed = text.replaced(found[0], found[0] + len(old), new)
    staged.change(path, data, changed)
    line = text.content.count("\n", 0, found[0]) + 1
    first, last = max(0, line - CONTEXT), line + CONTEXT + new.count("\n")
    snippet = numbered("".join(changed.lines[first:last]), f"a snippet of {path}", first + 1)
    message = f"The file {path} has been edited. {snippet}{_REVIEW}. Edit the file again if necessary."
    return Outcome(message, text.content, changed.content)


def _occurrences(content: str, part: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(part), content)]


def _insert(path: Path, line: int, new: str, staged: Staged) -> Outcome:
    data, text = staged.load(path)
    lines = text.lines
    if not 0 <= line <= len(lines):
        hint = f"It should be within the range of allowed values: [0, {len(lines)}]"
        raise invalid("insert_line", line, hint)
    at = sum(map(len, lines[:line]))
    open_end = "\n" if line and not lines[line - 1].endswith("\n") else ""
    changed = text.replaced(at, at, f"{open_end}{new}\n")
    staged.change(path, data, changed)
    count = new.count("\n") + 1
    first, last = max(0, line - CONTEXT), min(len(lines) + count, line + CONTEXT + count)
    snippet = numbered("".join(changed.lines[first:last]), "a snippet of the edited file", first + 1)
    message = (
        f"The file {path} has been edited. {snippet}{_REVIEW} "
        "(correct indentation, no duplicate lines, etc). Edit the file again if necessary."
    )
    return Outcome(message, text.content, changed.content)


def _write(staged: Staged) -> None:
    """Every change, or none: what was already in place when one fails is put back."""
    drafts: dict[Path, disk.Draft] = {}
    done: list[Path] = []
    path = Path()
    try:
        for path, content in staged.contents.items():
            drafts[path] = disk.Draft(path)
            drafts[path].write(content)
            drafts[path].file.flush()
        for path in drafts:
            drafts[path].commit()
            done.append(path)
    except (OSError, GraftboxError) as error:
        for each in done:
            _put_back(each, staged.present[each])
        raise EditError(f"Ran into {error} while trying to write to {path}") from error
    finally:
        for draft in drafts.values():
            draft.discard()


def _put_back(path: Path, content: bytes | None) -> None:
    with contextlib.suppress(OSError, GraftboxError):
        if content is None:
            path.unlink()
        else:
            disk.put(path, content)


def _answer(action: Edit, outcome: Outcome) -> EditResult:
    diff = _diff(outcome.before or "", outcome.after or "", action.path)
    return EditResult(outcome.message, action.path, action.old_str, action.new_str, diff)


def _diff(before: str, after: str, path: str) -> str:
    """A unified diff without context, its lines without white space at the end."""
    if before == after:
        return ""
    old, new = before.split("\n"), after.split("\n")
    if len(old) + len(new) > _EXACT_DIFF:
        changes: Iterator[str] = _one_change(old, new, path)
    else:
        changes = difflib.unified_diff(old, new, fromfile=path, tofile=path, n=0)
    return "\n".join(line.rstrip() for line in changes)


def _one_change(old: list[str], new: list[str], path: str) -> Iterator[str]:
    """From the first line that differs to the last: comparing many lines in full can take minutes."""
    start = _alike(old, new)
    end = _alike(old[start:][::-1], new[start:][::-1])
    removed, added = old[start : len(old) - end], new[start : len(new) - end]
    yield from (f"--- {path}", f"+++ {path}", f"@@ -{_range(start, removed)} +{_range(start, added)} @@")
    yield from (f"-{line}" for line in removed)
    yield from (f"+{line}" for line in added)


def _alike(one: list[str], other: list[str]) -> int:
    """How many lines at the start are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _range(start: int, lines: list[str]) -> str:
    if not lines:
        return f"{start},0"
    return f"{start + 1}" if len(lines) == 1 else f"{start + 1},{len(lines)}"

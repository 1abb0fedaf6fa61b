"""The skill ``file_editor``: the server's editor, called from a cell."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from graftbox.server.editor import Editor
from graftbox.server.text import decoded
from graftbox.wire.actions import Edit

_ERROR = "ERROR:\n"


@cache
def _editor() -> Editor:
    return Editor()


def file_editor(
    command: str,
    path: str,
    file_text: str | None = None,
    view_range: Sequence[int] | None = None,
    old_str: str | None = None,
    new_str: str | None = None,
    insert_line: int | None = None,
    enable_linting: bool = False,
) -> str:
    """View, create or edit a file: commands view, create, str_replace, insert and undo_edit.

    ``path`` is absolute. Returns JSON with the keys output, error, path, prev_exist, old_content and
    new_content between two markers, as openhands-aci does; ``enable_linting`` has no effect.
    """
    action = Edit(
        path=path,
        command=command,
        file_text=file_text,
        old_str=old_str,
        new_str=new_str,
        insert_line=insert_line,
        view_range=tuple(view_range) if view_range is not None else None,
    )
    existed = os.path.exists(path)  # noqa: PTH110 - False for a path that no file can have
    before = _content(path)
    (result,) = _editor()._run_all([action], str(Path.cwd()))
    failed = result.content.startswith(_ERROR)
    changed = not failed and command != "view"
    facts = {
        "output": "" if failed else result.content,
        "error": result.content.removeprefix(_ERROR) if failed else "",
        "path": None if failed else path,
        "prev_exist": True if failed else existed,
        "old_content": before if changed else None,
        "new_content": _content(path) if changed else None,
    }
    told = ",".join(f'"{name}": {json.dumps(value)}' for name, value in facts.items())
    marker = f"oh_aci_output_{uuid.uuid4().hex}"
    formatted = json.dumps(result.content)
    return f'<{marker}>\n{{{told}, "formatted_output_and_error": {formatted}}}\n</{marker}>'


def _content(path: str) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return decoded(Path(path).read_bytes()).content
    return None

"""Reading and writing files for the agent, by the model's rules. Blocking: call it off the event loop."""

from __future__ import annotations

import base64
from pathlib import Path

from graftbox.errors import GraftboxError
from graftbox.server.disk import open_regular, put
from graftbox.server.text import SNIFFED, decoded, is_binary
from graftbox.server.viewer import EditError, view
from graftbox.wire.actions import Read, Write
from graftbox.wire.observations import Failure, ReadResult, WriteResult

BINARY = "ERROR_BINARY_FILE"
MAX_SIZE = 64 * 1024 * 1024
"""Bytes of a file that is read."""
_TOO_LARGE = ValueError(f"it is larger than {MAX_SIZE} bytes; work on parts of it with a command")
# Files with these names that hold text all the same are answered as the model does.
_PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".pdf": "application/pdf",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".ogg": "audio/ogg",
}


def read(action: Read, cwd: str) -> ReadResult | Failure:
    """The file's text, or lines of it; relative paths start at ``cwd``, the shell's folder."""
    path = Path(cwd, action.path)
    viewed = action.impl_source == "oh_aci"
    try:
        if (viewed and path.is_dir()) or not (data := _content(path, SNIFFED if viewed else MAX_SIZE + 1)):
            return _viewed(action, cwd) if viewed else ReadResult("", str(path), action.impl_source)
        if len(data) > MAX_SIZE:
            raise _TOO_LARGE
        if is_binary(data[:SNIFFED]):
            return Failure(BINARY)
        if viewed:
            return _viewed(action, cwd)
        if kind := _PICTURES.get(path.suffix.lower()):
            return ReadResult(f"data:{kind};base64,{base64.b64encode(data).decode()}", str(path))
        content = data.decode("utf-8")
    except IsADirectoryError:
        return Failure(f"Path is a directory: {path}. You can only read files")
    except (FileNotFoundError, NotADirectoryError):
        if viewed:
            return _viewed(action, cwd)
        return Failure(f"File not found: {path}. Your current working directory is {cwd}.")
    except UnicodeDecodeError:
        return Failure(f"File could not be decoded as utf-8: {path}.")
    except (OSError, ValueError, GraftboxError) as error:
        return Failure(f"File could not be read: {path}: {_reason(error)}.")
    return ReadResult(_lines(content, action.start, action.end), str(path), action.impl_source)


def write(action: Write, cwd: str) -> WriteResult | Failure:
    """Write the file, its missing folders included; text always ends with a newline.

    The whole file is UTF-8 with the line ends that came; lines of a file that exists get its encoding and
    line ends.
    """
    path = Path(cwd, action.path)
    # What comes as UTF-16 surrogates in JSON may not be a character; keep its bytes rather than fail.
    content = action.content.encode("utf-8", "surrogatepass")
    if content and not content.endswith(b"\n"):
        content += b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content if action.start <= 0 and action.end == -1 else _spliced(path, content, action))
    except IsADirectoryError:
        return Failure(f"Path is a directory: {path}. You can only write to files")
    except (OSError, ValueError, GraftboxError) as error:
        return Failure(f"File could not be written: {path}: {_reason(error)}.")
    return WriteResult(str(path))


def _content(path: Path, limit: int) -> bytes:
    with open_regular(path) as file:
        return file.read(limit)


def _viewed(action: Read, cwd: str) -> ReadResult:
    try:
        text = view(Path(action.path), cwd, action.view_range)
    except EditError as error:
        text = f"ERROR:\n{error}"
    return ReadResult(text, action.path, action.impl_source)


def _reason(error: Exception) -> str:
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return reason.rstrip(".")


def _lines(content: str, start: int, end: int) -> str:
    if start <= 0 and end == -1:
        return content
    lines = content.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + [lines[-1]] * bool(lines[-1])
    return "".join(lines[max(start, 0) : None if end == -1 else max(end, 0)])


def _spliced(path: Path, content: bytes, action: Write) -> bytes:
    """The file with its lines from ``start`` to ``end`` as ``content``."""
    try:
        data = _content(path, MAX_SIZE + 1)
    except FileNotFoundError:
        return content
    if len(data) > MAX_SIZE:
        raise _TOO_LARGE
    text = decoded(data)
    lines = text.lines
    start = max(action.start, 0)
    first, last = len("".join(lines[:start])), None if action.end == -1 else max(action.end, 0)
    new = content.decode("utf-8", "surrogatepass") or "\n"
    if first and not text.content[:first].endswith("\n"):
        new = "\n" + new
    kept = "".join(lines[last:]) if last is not None else ""
    return text.replaced(first, len(text.content) - len(kept), new).encoded()

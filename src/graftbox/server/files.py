"""Reading and writing files for the agent, by the model's rules. Blocking: call it off the event loop."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from graftbox.server.viewer import view
from graftbox.wire.actions import Read, Write
from graftbox.wire.observations import Failure, ReadResult, WriteResult

BINARY = "ERROR_BINARY_FILE"
MAX_SIZE = 64 * 1024 * 1024
"""Bytes of a file that is read."""
_SNIFFED = 8192
_SPECIAL = "it is not a regular file"


def read(action: Read, cwd: str) -> ReadResult | Failure:
    """The file's text, or lines of it; relative paths start at ``cwd``, the shell's folder."""
    path = Path(cwd, action.path)
    try:
        if refused := _unreadable(path):
            return Failure(f"File could not be read: {action.path}: {refused}.")
        if path.is_file() and _is_binary(path):
            return Failure(BINARY)
        if action.impl_source == "oh_aci":
            return ReadResult(view(path, action.view_range), str(path), action.impl_source)
        content = path.read_bytes().decode("utf-8")
    except IsADirectoryError:
        return Failure(f"Path is a directory: {action.path}. You can only read files")
    except (FileNotFoundError, NotADirectoryError):
        return Failure(f"File not found: {action.path}. Your current working directory is {cwd}.")
    except UnicodeDecodeError:
        return Failure(f"File could not be decoded as utf-8: {action.path}.")
    except (OSError, ValueError) as error:
        return Failure(f"File could not be read: {action.path}: {_reason(error)}.")
    return ReadResult(_lines(content, action.start, action.end), str(path), action.impl_source)


def write(action: Write, cwd: str) -> WriteResult | Failure:
    """Write the file, its missing folders included; text always ends with a newline.

    The replacement is atomic and keeps mode and owner, where file system and permissions allow one.
    """
    path = Path(cwd, action.path)
    try:
        # What comes as UTF-16 surrogates in JSON may not be a character; keep its bytes rather than fail.
        content = action.content.encode("utf-8", "surrogatepass")
        target = path.resolve()
        if target.is_dir():
            return Failure(f"Path is a directory: {action.path}. You can only write to files")
        if target.exists() and not target.is_file():
            return Failure(f"File could not be written: {action.path}: {_SPECIAL}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, _with_content(target, content, action.start, action.end))
    except (OSError, ValueError) as error:
        return Failure(f"File could not be written: {action.path}: {_reason(error)}.")
    return WriteResult(str(path))


def _unreadable(path: Path) -> str | None:
    """Why reading might never end or fill the memory."""
    if not path.exists() or path.is_dir():
        return None
    if not path.is_file():
        return _SPECIAL
    if path.stat().st_size > MAX_SIZE:
        return f"it is larger than {MAX_SIZE} bytes; read parts of it with a command"
    return None


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(_SNIFFED)


def _lines(content: str, start: int, end: int) -> str:
    if start <= 0 and end == -1:
        return content
    lines = content.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + [lines[-1]] * bool(lines[-1])
    return "".join(lines[max(start, 0) : None if end == -1 else max(end, 0)])


def _with_content(target: Path, content: bytes, start: int, end: int) -> bytes:
    if content and not content.endswith(b"\n"):
        content += b"\n"
    if (start <= 0 and end == -1) or not target.exists():
        return content
    lines = target.read_bytes().splitlines(keepends=True)
    before = lines[: max(start, 0)]
    if before and not before[-1].endswith(b"\n"):
        before[-1] += b"\n"
    after = [] if end == -1 else lines[max(end, 0) :]
    return b"".join(before) + (content or b"\n") + b"".join(after)


def _replace(target: Path, content: bytes) -> None:
    """Put ``content`` in place in one step; through the existing file where only that keeps what it is."""
    try:
        now: os.stat_result | None = target.stat()
    except FileNotFoundError:
        now = None
    if now and (now.st_nlink > 1 or not os.access(target, os.W_OK)):
        target.write_bytes(content)
        return
    try:
        temporary = target.with_name(f".{target.name[:50]}.{os.urandom(6).hex()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except PermissionError:
        target.write_bytes(content)
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if now:
                if (now.st_uid, now.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), now.st_uid, now.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(now.st_mode))
            else:
                os.fchmod(file.fileno(), 0o666 & ~_umask())
        temporary.replace(target)
    except OSError:
        # Not our owner to give, or the file is a mount of its own: write through it instead.
        with contextlib.suppress(OSError):
            temporary.unlink()
        target.write_bytes(content)


def _umask() -> int:
    # Reading it by setting it would race with the other threads.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022

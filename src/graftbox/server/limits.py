"""How much of everything there may be at once, and the variables that say so."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from graftbox.errors import UsageError
from graftbox.server.environment import Environment


@dataclass(frozen=True)
class Limits:
    """``GRAFTBOX_`` and the name in capitals is the variable that sets it.

    ``max_connections`` of clients, ``max_body_bytes`` of a request that is read as a whole, ``max_sessions``
    open; of background commands ``max_commands`` that run, ``kept_commands`` in all, ``output_bytes`` kept of
    each stream, and ``output_total_bytes`` kept of all together (the oldest finished commands go first); of
    the browser ``max_pages`` open, ``page_memory_bytes`` of data that each of its processes may have,
    ``download_bytes`` of a file that it may write, ``download_total_bytes`` of all that it downloads, in
    ``max_downloads`` files, before it is started anew.
    """

    max_connections: int = 400
    max_body_bytes: int = 64 * 1024 * 1024
    max_sessions: int = 128
    max_commands: int = 64
    kept_commands: int = 256
    output_bytes: int = 64 * 1024 * 1024
    output_total_bytes: int = 1024 * 1024 * 1024
    max_pages: int = 32
    page_memory_bytes: int = 4 * 1024 * 1024 * 1024
    download_bytes: int = 1024 * 1024 * 1024
    download_total_bytes: int = 4 * 1024 * 1024 * 1024
    max_downloads: int = 1000


def read_limits(environment: Environment) -> Limits:
    """Raises `UsageError` for what is no positive number."""
    limits = Limits()
    for field in fields(Limits):
        variable = f"GRAFTBOX_{field.name.upper()}"
        text = environment.get(variable)
        if not text:
            continue
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**53:
            raise UsageError(f"{variable} must be a positive whole number, not {text!r}.")
        limits = replace(limits, **{field.name: int(text)})
    return limits

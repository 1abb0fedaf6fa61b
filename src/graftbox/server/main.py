"""The server process: from argv to a listening socket, and back down on a signal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftbox.server.environment import Environment
    from graftbox.server.inheritance import Inheritance
    from graftbox.server.settings import Settings


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    from graftbox.server.secrets import take_environment

    entries = take_environment()
    made_up_key = os.urandom(24).hex()
    starts, inheritance = 0, None
    if is_first_process():
        from graftbox.server.init import fork_server

        starts, inheritance = fork_server()
    return _serve(sys.argv[1:] if argv is None else argv, entries, made_up_key, starts, inheritance)


def is_first_process() -> bool:
    return os.getpid() == 1


def _serve(
    words: list[str],
    entries: tuple[bytes, ...],
    made_up_key: str,
    starts: int,
    inheritance: Inheritance | None,
) -> int:
    from graftbox.errors import GraftboxError
    from graftbox.server.environment import Environment
    from graftbox.server.settings import USAGE, read_settings

    options = words[: words.index("--")] if "--" in words else words
    if {"-h", "--help"} & set(options):
        print(f"usage: {USAGE}")
        return 0
    environment = Environment(entries)
    try:
        settings = read_settings(words, environment, _working_folder(), made_up_key)
        if settings.key == made_up_key and not starts:
            print(f"SESSION_API_KEY is not set; this session's key is {made_up_key}", file=sys.stderr)
        _run(settings, environment, inheritance, restarted=starts > 0)
    except GraftboxError as error:
        print(f"action-execution-server: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _run(
    settings: Settings, environment: Environment, inheritance: Inheritance | None, *, restarted: bool
) -> None:
    import asyncio

    from graftbox.server.diagnostics import start_logging
    from graftbox.server.service import serve

    start_logging(environment)
    asyncio.run(serve(settings, environment, inheritance, restarted=restarted))


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is not needed here, and slow to import
    except OSError:
        return "/"


if __name__ == "__main__":
    sys.exit(main())

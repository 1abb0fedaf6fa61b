"""The server process: from argv to a listening socket, and back down on a signal."""

from __future__ import annotations

import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    from graftbox.errors import GraftboxError
    from graftbox.server.environment import Environment
    from graftbox.server.settings import USAGE, read_settings

    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}")
        return 0
    environment = Environment.of_this_process()
    try:
        settings = read_settings(words, environment, _working_folder())
    except GraftboxError as error:
        print(f"action-execution-server: {error}", file=sys.stderr)
        return error.exit_code
    import asyncio
    import logging

    from graftbox.server.service import serve

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        asyncio.run(serve(settings, environment))
    except GraftboxError as error:
        print(f"action-execution-server: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is not needed here, and slow to import
    except OSError:
        return "/"


if __name__ == "__main__":
    sys.exit(main())

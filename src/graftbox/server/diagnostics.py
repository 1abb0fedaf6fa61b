"""What the server says about itself on standard error: lines of text, or JSON where ``LOG_JSON`` says so."""

from __future__ import annotations

import json
import logging
import sys

from graftbox.server.environment import Environment

_YES = ("1", "true", "yes")


class JSONLines(logging.Formatter):
    """One object per line with the keys of the OpenHands server: timestamp, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        line = {"timestamp": self.formatTime(record), "level": record.levelname, "message": message}
        return json.dumps({**line, "logger": record.name})


def start_logging(environment: Environment) -> None:
    """``DEBUG`` and ``LOG_JSON`` are the variables that existing clients set."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JSONLines()
        if yes(environment, "LOG_JSON")
        else logging.Formatter("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Ours alone: other libraries' debug lines may quote requests with their keys.
    if yes(environment, "DEBUG"):
        logging.getLogger("graftbox").setLevel(logging.DEBUG)


def yes(environment: Environment, name: str) -> bool:
    """Whether a variable says so."""
    return (environment.get(name) or "").lower() in _YES

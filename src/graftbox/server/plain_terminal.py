"""The shell of a VS Code terminal, in the environment that the container was started with.

Run as ``python -ISB plain_terminal.py FILE SHELL``. VS Code puts a dozen variables of its own into its
terminals, changes PATH, and points git and the browser at helpers. FILE has the variables as they shall be,
``NAME=value`` with a NUL behind each; what the terminal can do (TERM, COLORTERM) VS Code knows best.
"""

import os
import sys

_TERMINAL = (b"TERM", b"COLORTERM")


def main(file: str, shell: str) -> None:
    with open(file, "rb") as entries:  # noqa: PTH123 - without pathlib it starts sooner
        pairs = [entry.partition(b"=") for entry in entries.read().split(b"\0") if entry]
    environment = {name: value for name, _, value in pairs}
    for name in _TERMINAL:
        if name in os.environb:
            environment[name] = os.environb[name]
    os.execve(shell, [shell], environment)


if __name__ == "__main__":
    main(*sys.argv[1:3])

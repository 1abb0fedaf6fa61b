"""Shows a session of the agent's in this terminal: ``oh-attach [--socket FILE] [SESSION]``.

Run as ``python -ISB attach.py``, by a person or as a terminal profile of VS Code's. It becomes tmux, attached
to the session, which is ``main`` unless named. What runs there gets the keys; C-b d leaves it.
"""

import os
import subprocess
import sys
from pathlib import Path

PLACES = (os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/dev/shm", "/run", ".")
USAGE = "usage: oh-attach [--socket FILE] [SESSION]"


def main(words: list[str]) -> int:
    socket = ""
    if words[:1] == ["--socket"] and len(words) > 1:
        socket, words = words[1], words[2:]
    if len(words) > 1 or (words[:1] and words[0].startswith("-")):
        print(USAGE, file=sys.stderr)
        return 2
    wanted = (words or ["main"])[0].replace(".", "_")
    tmux = "/openhands/bin/oh-tmux"
    if not os.access(tmux, os.X_OK):
        tmux = "tmux"
    environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TMUX_PANE")}
    for path in [socket] if socket else sockets():
        for name in sessions(tmux, path):
            # Behind the name stands the number of the session's present shell.
            if name.rpartition("-")[0] == wanted:
                os.execvpe(tmux, [tmux, "-u", "-S", path, "attach-session", "-t", f"={name}"], environment)
    print(f"There is no session {wanted} here; GET /v1/sessions lists them.", file=sys.stderr)
    return 1


def sockets() -> list[str]:
    """The tmux sockets of the sandbox's servers that this user may use, the newest first."""
    found = [path for place in PLACES if place for path in Path(place).glob(".graftbox-*/u*/tmux")]
    usable = [path for path in found if os.access(path, os.W_OK)]
    return [str(path) for path in sorted(usable, key=lambda path: -path.stat().st_mtime)]


def sessions(tmux: str, path: str) -> list[str]:
    listed = subprocess.run(
        [tmux, "-S", path, "list-sessions", "-F", "#{session_name}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return listed.stdout.decode("utf-8", "replace").split()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

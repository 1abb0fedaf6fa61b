"""A kernel on the base image's own Python: ``python -u foreign.py FOLDER SOCKET LIFELINE``.

Needs nothing but the standard library of CPython 3.6 or later; uses that interpreter's own IPython where it
has one. SOCKET carries lines of JSON: a cell in, its outputs and its end back, see ``pipe.py`` of the server.
"""

import builtins
import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, Dict, List

# ruff: noqa: UP006, UP031, UP035, PTH100, PTH103, PTH109, PTH120 - for Python 3.6; pathlib would only cost time
if TYPE_CHECKING:
    from graftbox.server.kernel.guest import borrowed, figures, lifeline, notebook, outputs
else:
    # From this program's folder, which leaves the path again, and the modules their names.
    sys.path[0] = os.path.dirname(os.path.abspath(__file__))
    import figures
    import lifeline
    import notebook
    import outputs

    try:
        import borrowed
    except Exception:  # no IPython, or one that can't be imported here
        borrowed = None
    for _name in ("borrowed", "figures", "lifeline", "notebook", "outputs"):
        sys.modules.pop(_name, None)
    sys.path[0] = ""

_NO_INPUT = "raw_input was called, but this frontend does not support input requests."


class StdinNotImplementedError(NotImplementedError):
    """Nobody can answer a cell's question."""


def main() -> None:
    folder, descriptor, life = sys.argv[1:]
    lifeline.hold(int(life))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    wire = socket.socket(fileno=int(descriptor))
    wire.set_inheritable(False)
    requests: queue.Queue[Dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(wire, requests), daemon=True).start()
    channel = outputs.Channel(wire)
    running = [False]

    def on_interrupt(number: int, frame: object) -> None:
        if running[0]:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_interrupt)
    channel.capture()
    builtins.input = _no_input
    sys.argv = [""]
    user = types.ModuleType("__main__")
    user.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = user
    # A backend without windows; its figures are shown when the cell is over.
    figures.show_inline("agg")
    book = _book(user, channel, folder)
    channel.send({"id": 0, "kind": "ready"})
    while True:
        request = requests.get()
        _run(request, book, channel, running)


def _book(user: types.ModuleType, channel: outputs.Channel, folder: str) -> notebook.Notebook:
    """By the interpreter's own IPython, unless that is too strange."""
    if borrowed is not None:
        try:
            return borrowed.Borrowed(user, channel, folder)
        except Exception as error:
            print("IPython does not work here: %r" % error, file=sys.__stderr__)
    return notebook.Plain(user, channel)


def _run(
    request: Dict[str, Any], book: notebook.Notebook, channel: outputs.Channel, running: List[bool]
) -> None:
    channel.begin(request["id"])
    if request["cwd"]:
        with contextlib.suppress(OSError):
            os.chdir(request["cwd"])
    fine = False
    try:
        running[0] = True
        try:
            fine = book.run(request["code"])
            book.show_figures()
        finally:
            running[0] = False
    except KeyboardInterrupt as error:
        book.explain(error)
    channel.settle()
    cwd = None
    with contextlib.suppress(OSError):
        cwd = os.getcwd()
    channel.send({"id": request["id"], "kind": "done", "status": "ok" if fine else "error", "cwd": cwd})


def _listen(wire: socket.socket, requests: Any) -> None:
    rest = b""
    while True:
        data = wire.recv(1 << 16)
        if not data:
            return
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        for line in lines:
            requests.put(json.loads(line.decode()))


def _no_input(prompt: object = "") -> str:
    raise StdinNotImplementedError(_NO_INPUT)


if __name__ == "__main__":
    main()

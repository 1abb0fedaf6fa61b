"""ipykernel's application as our kernel needs it: no history, no colours, no polling, nothing lost.

What ipykernel does to its process's environment is undone where programs started from a cell would notice
it: there is no FORCE_COLOR and no MPLBACKEND for them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import zmq
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from traitlets import Type
from traitlets.config import Config

from graftbox.server.kernel.guest import figures
from graftbox.server.kernel.guest.streams import Captured

CWD = "graftbox_cwd"
_QUIET = 50
_QUEUED = 16


class Shell(ZMQInteractiveShell):
    def init_environment(self) -> None:
        # A pager in a terminal that nobody looks at would wait for ever.
        os.environ["PAGER"] = os.environ["GIT_PAGER"] = "cat"


class Kernel(IPythonKernel):
    """Changes its folder with a request, and says with the reply where it is."""

    shell_class = Type(Shell)

    async def do_execute(self, code: str, silent: bool, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if wanted := (kwargs.get("cell_meta") or {}).get(CWD):
            with contextlib.suppress(OSError):
                os.chdir(wanted)
        try:
            reply: dict[str, Any] = await self._executed(code, silent, *args, **kwargs)
        finally:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, Captured):
                    stream.settle()
        with contextlib.suppress(OSError):
            reply[CWD] = str(Path.cwd())
        return reply

    def _executed(self, *args: Any, **kwargs: Any) -> Any:
        return super().do_execute(*args, **kwargs)  # type: ignore[no-untyped-call]  # ipykernel has no types


class Application(IPKernelApp):
    kernel_class = Type(Kernel)
    settings = Config(
        {
            "HistoryManager": {"enabled": False},
            "InteractiveShell": {"colors": "nocolor"},
            "IPKernelApp": {
                "log_level": _QUIET,
                "outstream_class": f"{Captured.__module__}.{Captured.__name__}",
            },
        }
    )

    @classmethod
    def in_folder(cls, folder: str, connection_file: str) -> Application:
        """``folder`` takes the place of ~/.ipython, which may be anything."""
        return cls(
            connection_file=connection_file,
            config=Config(cls.settings, BaseIPythonApplication={"ipython_dir": folder}),
        )

    def _apply_curve_server_options(self, socket: zmq.Socket[Any]) -> None:
        # The one hook between the making of a socket and its first message.
        if socket.type == zmq.XPUB:
            # Rather wait for the server than drop a message that there is no room for.
            socket.setsockopt(zmq.XPUB_NODROP, 1)
            socket.setsockopt(zmq.SNDHWM, _QUEUED)

    def init_crash_handler(self) -> None:
        pass

    def init_gui_pylab(self) -> None:
        figures.show_inline("module://matplotlib_inline.backend_inline")

"""Runs cells on a foreign interpreter by its own IPython, 5 or later.

Runs on Python 3.6. Imported only where IPython can be.
"""

import re
import subprocess
from typing import TYPE_CHECKING, Any, Dict

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

if TYPE_CHECKING:
    from graftbox.server.kernel.guest.notebook import Notebook, base64_text
else:
    from notebook import Notebook, base64_text

# ruff: noqa: UP006, UP035 - Python 3.6 has no dict[str, Any]


class _Hook(DisplayHook):
    channel: Any = None

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        self.channel.emit("result", data=_texts(format_dict))

    def finish_displayhook(self) -> None:
        pass


class _Publisher(DisplayPublisher):
    channel: Any = None

    def publish(self, data: Any, metadata: Any = None, source: Any = None, **options: Any) -> None:
        kind = "update" if options.get("update") else "display"
        display_id = (options.get("transient") or {}).get("display_id")
        self.channel.emit(kind, data=_texts(data), display_id=display_id)

    def clear_output(self, wait: bool = False) -> None:
        self.channel.emit("clear", wait=wait)


class _Shell(InteractiveShell):
    displayhook_class = Type(_Hook)
    display_pub_class = Type(_Publisher)
    channel: Any = None

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        text = re.sub(r"\x1b\[[0-9;]*m", "", stb if isinstance(stb, str) else "\n".join(stb))
        self.channel.emit("error", name=etype.__name__, value=str(evalue), traceback=text)

    def system(self, cmd: str) -> None:
        expanded: Any = self.var_expand(cmd, depth=1)  # type: ignore[no-untyped-call]  # IPython has no types
        self.user_ns["_exit_code"] = subprocess.call(expanded, shell=True)

    def enable_gui(self, gui: Any = None) -> None:
        pass


class Borrowed(Notebook):
    """A notebook that IPython runs, with ``folder`` instead of ~/.ipython."""

    def __init__(self, user: Any, channel: Any, folder: str) -> None:
        super().__init__(user, channel)
        _Hook.channel = _Publisher.channel = _Shell.channel = channel
        try:
            self.shell = self._shell(folder, "NoColor")
        except Exception:  # IPython 9 writes it small
            _Shell.clear_instance()
            self.shell = self._shell(folder, "nocolor")

    def _shell(self, folder: str, colors: str) -> Any:
        settings = Config(HistoryManager={"enabled": False}, InteractiveShell={"colors": colors})
        return _Shell.instance(user_module=self.user, ipython_dir=folder, config=settings)

    def run(self, code: str) -> bool:
        return bool(self.shell.run_cell(code, store_history=False).success)

    def explain(self, error: BaseException) -> None:
        self.shell.showtraceback((type(error), error, error.__traceback__))


def _texts(data: Any) -> Dict[str, Any]:
    return {kind: base64_text(value) if isinstance(value, bytes) else value for kind, value in data.items()}

"""IPython's kernel on the bundle's Python: ``python bundled.py FOLDER PACKAGES CONNECTION-FILE LIFELINE``.

FOLDER is private and writable; PACKAGES is where ``%pip`` installs to, a place that this kernel alone sees.
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import signal
import site
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CODE = HERE.parents[3]
SKILLS = HERE.parent / "skills"
_FOLDERS = ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
RESTART = "Note: you may need to restart the kernel to use updated packages."
_PLACES = {"-t", "--target", "--prefix", "--root", "--user", "--python"}


def main() -> None:
    folder, packages, connection_file, descriptor = sys.argv[1:]
    # Behind everything else: what the agent's skills are made of, and the rest of this program.
    sys.path += [str(SKILLS), str(CODE)]
    from graftbox.server.kernel.guest import lifeline

    lifeline.hold(int(descriptor))
    Path(folder).mkdir(mode=0o700, exist_ok=True)
    from graftbox.server.kernel.guest.application import Application

    app: Any = Application.in_folder(folder, connection_file)
    # Jupyter's own folders are only asked for now; the user's programs are to see no variable of ours.
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(_FOLDERS, folder))
    app.initialize([])
    for name in _FOLDERS:
        os.environ.pop(name) if name not in before else os.environ.update({name: before[name]})
    sys.path.insert(0, "")
    _find_a_shell()
    app.shell.register_magic_function(Pip(app.shell, packages), "line", "pip")
    Pip.add_to_path(packages)
    app.start()


class Pip:
    """The magic ``%pip``: installs into ``packages``, which programs other than this kernel never see."""

    def __init__(self, shell: Any, packages: str) -> None:
        self.shell, self.packages = shell, packages

    def __call__(self, line: str) -> None:
        """Run pip on the kernel's own Python; what it installs can be imported at once."""
        before = dict(os.environ)
        try:
            for name in before:
                if name.startswith("PYTHON") or name in ("PIP_TARGET", "PIP_PREFIX", "PIP_USER"):
                    del os.environ[name]
            for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
                if name in before and not os.access(before[name], os.R_OK):
                    del os.environ[name]
            if not os.path.isdir(before.get("HOME", "")):  # noqa: PTH112 - Path("") is a folder
                os.environ["HOME"] = self.packages
            os.environ.update(self._place(line))
            self.shell.system(f"{shlex.quote(sys.executable)} -P -Xutf8 -m pip {line}")
        finally:
            os.environ.clear()
            os.environ.update(before)
        print(RESTART)
        self.add_to_path(self.packages)
        importlib.invalidate_caches()

    def _place(self, line: str) -> dict[str, str]:
        common = {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_WARN_SCRIPT_LOCATION": "0",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PYTHONUSERBASE": self.packages,
        }
        if line.split()[:1] != ["install"] or any(word.partition("=")[0] in _PLACES for word in line.split()):
            return common
        if sys.prefix != sys.base_prefix:  # a virtual environment has no packages of a user
            return {**common, "PIP_TARGET": _site(self.packages), "PIP_UPGRADE": "1"}
        return {**common, "PIP_USER": "1"}

    @staticmethod
    def add_to_path(packages: str) -> None:
        """Before the bundle's own packages, as a user's packages are; what is loaded already stays."""
        place = _site(packages)
        if Path(place).is_dir() and place not in sys.path:
            known = len(sys.path)
            site.addsitedir(place)
            # Behind the first, which stands for the kernel's folder.
            sys.path[1:1] = [sys.path.pop(known) for _ in range(len(sys.path) - known)]


def _site(packages: str) -> str:
    return f"{packages}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def _find_a_shell() -> None:
    """What ``!command`` runs in: the base image's sh, else the bundle's."""
    from IPython.utils._process_posix import ProcessHandler

    own = Path(sys.executable).with_name("dash")
    if shutil.which("sh") is None and own.is_file():
        ProcessHandler._sh = str(own)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()

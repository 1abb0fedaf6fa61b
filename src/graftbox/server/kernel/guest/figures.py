"""Shows matplotlib's figures in the cell, without an environment variable that child processes would inherit.

MPLBACKEND would break every program that the kernel starts and whose matplotlib lacks that backend. So the
backend is chosen in this process alone, in the moment when matplotlib is imported. Runs on Python 3.6.
"""

# ruff: noqa: UP045 - Python 3.6 knows no "X | None"
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Optional


class _Finder(MetaPathFinder):
    """Finds matplotlib once, and has it loaded with our backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        if name != "matplotlib":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.backend)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader, backend: str) -> None:
        self.loader, self.backend = loader, backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        try:
            # As a default only: whoever names another backend gets that.
            for settings in (module.rcParams, module.rcParamsDefault):
                dict.__setitem__(settings, "backend", self.backend)
        except (AttributeError, TypeError):  # a matplotlib that keeps its settings elsewhere
            pass


def show_inline(backend: str) -> None:
    """Have matplotlib use ``backend`` unless the user's environment names one."""
    if not os.environ.get("MPLBACKEND"):
        sys.meta_path.insert(0, _Finder(backend))

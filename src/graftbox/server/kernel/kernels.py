"""The kernels of a sandbox by name; the one called ``main`` runs the cells of the agent's actions."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.errors import NotFoundError, UnsupportedError
from graftbox.server import runtime
from graftbox.server.become import environment_for
from graftbox.server.environment import find_program
from graftbox.server.kernel.cell import Cell
from graftbox.server.kernel.kernel import Kernel, places
from graftbox.server.kernel.link import Link
from graftbox.server.kernel.process import Plan
from graftbox.wire.actions import RunIPython
from graftbox.wire.observations import IPythonResult, truncated

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

MAIN = "main"
LIMIT = 16
"""Kernels at a time."""
NO_OUTPUT = "[Code executed successfully with no output]"
_GUEST = Path(__file__).parent / "guest"


class Kernels:
    """The kernels by name, and the model's way of using one of them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.kernels: dict[str, Kernel] = {}
        self._followed = sandbox.settings.working_dir
        self._prepared = 0
        self._preparing = asyncio.Lock()
        self._begun = 0
        self._cleared: set[int] = set()

    def main(self) -> Kernel:
        """The kernel of the agent's actions, which starts with its first cell."""
        if MAIN not in self.kernels:
            sandbox = self.sandbox
            plan = Plan(
                cwd=sandbox.settings.working_dir,
                identity=sandbox.identity,
                entries=environment_for(sandbox, sandbox.identity, {}),
                interpreter=sandbox.settings.kernel_python,
            )
            self.kernels[MAIN] = self.create(plan)
        return self.kernels[MAIN]

    def create(self, plan: Plan) -> Kernel:
        return Kernel(plan, self._launch)

    def chosen(self, interpreter: str | None) -> str | None:
        """The path of an interpreter that was named; raises `NotFoundError`."""
        if interpreter is None:
            return None
        environment = self.sandbox.environment
        path = interpreter if "/" in interpreter else find_program(interpreter, environment.get("PATH"))
        if path is None or not os.access(path, os.X_OK):
            raise NotFoundError(
                f"The Python {interpreter} for the kernel is not an executable file; name another with "
                "--kernel-python, or none for the bundle's own."
            )
        return str(Path(path).absolute())

    def _launch(self, plan: Plan) -> tuple[Link, list[str], str]:
        folder = self.sandbox.sessions.folder
        assert folder is not None
        place = runtime.place_for(folder, plan.identity)
        if plan.identity.uid not in self._cleared:
            self._cleared.add(plan.identity.uid)
            _clear(place)
        base, packages = places(place, plan)
        interpreter = self.chosen(plan.interpreter)
        if interpreter is None:
            from graftbox.server.kernel.jupyter import JupyterLink

            check()
            program = str(_GUEST / "bundled.py")
            private = f"{base}.d"
            # OpenHands' clients look for it under a name of their own.
            python = self.sandbox.environment.get("GRAFTBOX_OWN_PYTHON") or sys.executable
            argv = [python, "-IB", "-Xutf8", program, private, str(packages)]
            return JupyterLink(base, plan.identity), argv, python
        from graftbox.server.kernel.pipe import PipeLink

        argv = [interpreter, "-u", str(_GUEST / "foreign.py")]
        return PipeLink(base.with_name(f"{base.name}.d")), argv, interpreter

    async def start(self, kernel: Kernel) -> None:
        """Have the kernel running; the main one with the agent's skills, where they were asked for."""
        if kernel is self.kernels.get(MAIN):
            await self._ready(kernel)
        else:
            await self.sandbox.sessions.prepare()
            await kernel.start()

    async def _ready(self, kernel: Kernel) -> None:
        await self.sandbox.sessions.prepare()
        async with self._preparing:
            await kernel.start()
            if self._prepared != kernel.generation:
                self._prepared = kernel.generation
                self._followed = kernel.cwd
                if kernel.plan.interpreter is None:
                    await self._run_plugins_code(kernel)

    async def _run_plugins_code(self, kernel: Kernel) -> None:
        plugins = self.sandbox.plugins
        for name, code in await plugins.kernel_code():
            cell = await kernel.execute(code, timeout=self.sandbox.settings.plugin_seconds, silent=True)
            if cell.done.result().status != "ok" or cell.timed_out:
                plugins.kernel_failed(name, cell.text())

    async def run(self, action: RunIPython) -> IPythonResult:
        """The cell's output, in the model's words."""
        kernel = self.main()
        await self._ready(kernel)
        note, kernel.note = kernel.note, ""
        if action.kernel_init_code and self._begun != kernel.generation:
            await kernel.execute(action.kernel_init_code, timeout=action.timeout, silent=True)
        self._begun = kernel.generation
        cell = await kernel.execute(action.code, timeout=action.timeout, cwd=self._follow())
        content = _content(cell, action.timeout)
        if note:
            content = f"[The kernel {note}. This is a new one: earlier variables are gone.]\n{content}"
        if action.include_extra:
            content += f"\n[Jupyter current working directory: {kernel.cwd}]"
            content += f"\n[Jupyter Python interpreter: {kernel.interpreter}]"
        return IPythonResult(content, action.code, cell.pictures())

    def _follow(self) -> str | None:
        """Where the main shell is, if that has changed since the last cell: the latest change counts."""
        now = self.sandbox.cwd
        if now == self._followed:
            return None
        self._followed = now
        return now

    async def close(self) -> None:
        await asyncio.gather(*(kernel.close() for kernel in self.kernels.values()))


def _clear(place: Path) -> None:
    """Remove what the kernels of a killed server have left; they ended with it."""
    for path in place.iterdir():
        if re.fullmatch("k[0-9a-f]{6}[.-].*", path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def check() -> None:
    """Raises `UnsupportedError` where the bundle's own Python has no kernel."""
    for name in ("ipykernel", "jupyter_client"):
        with contextlib.suppress(ModuleNotFoundError, ValueError):
            if importlib.util.find_spec(name) is not None:
                continue
        raise UnsupportedError(
            "This bundle has no Jupyter kernel: add the component jupyter to it, or name an interpreter of "
            "the base image with --kernel-python."
        )


def _content(cell: Cell, timeout: float | None) -> str:
    ended = cell.done.result()
    text = truncated(cell.text().rstrip())
    notes = []
    if cell.timed_out:
        notes.append(f"[Execution timed out ({timeout} seconds).]")
        if ended.status == "died":
            notes.append(
                "[It did not end when it was interrupted, so the kernel was ended: the next cell runs in a "
                "new one, and earlier variables are gone.]"
            )
    elif ended.status == "died":
        notes.append(
            f"[The kernel {ended.how}. The next cell runs in a new one, and earlier variables are gone.]"
        )
    elif not cell.outputs:
        notes.append(NO_OUTPUT)
    return "\n".join([*([text] if text else []), *notes])

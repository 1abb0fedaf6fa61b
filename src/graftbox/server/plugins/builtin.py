"""The plugins that the server brings itself: ``jupyter``, ``agent_skills`` and ``vscode``.

Names and order are those of OpenHands' server. The first two work inside the server, as its kernel does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graftbox.server.plugins.manifest import Manifest, Needs
from graftbox.server.plugins.plugin import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from graftbox.server.plugins.launch import Launch
    from graftbox.server.sandbox import Sandbox

SKILLS = "from openhands.runtime.plugins.agent_skills.agentskills import *"
AGENT_SKILLS = Manifest(
    "agent_skills",
    "The functions that OpenHands' agents find in their Python: file_editor, open_file and others",
    kernel=SKILLS,
    needs=Needs(components=("jupyter",)),
)
JUPYTER = Manifest("jupyter", "The IPython kernel of the agent's cells, started ahead of the first one")


class JupyterPlugin(Plugin):
    """The main kernel, which looks after itself: it is started anew with the next cell when it has died."""

    def __init__(self, sandbox: Sandbox, prepare: Callable[[Plugin], Coroutine[Any, Any, Launch]]) -> None:
        super().__init__(JUPYTER, prepare)
        self.sandbox = sandbox

    async def _run(self, began: float) -> str | None:
        kernels = self.sandbox.kernels
        self.starts += 1
        await kernels.start(kernels.main())
        self._turn("running")
        return None

    async def _end(self) -> None:
        from graftbox.server.kernel.kernels import MAIN

        if self.state != "running":
            return
        kernel = self.sandbox.kernels.kernels.pop(MAIN, None)
        if kernel is not None:
            await kernel.close()

    def describe(self) -> dict[str, Any]:
        found = super().describe()
        from graftbox.server.kernel.kernels import MAIN

        kernels = self.sandbox.kernels.kernels if "kernels" in self.sandbox.__dict__ else {}
        if (kernel := kernels.get(MAIN)) and self.state != "starting":
            if kernel.state in ("idle", "busy"):
                found["state"] = "running"
            elif kernel.state == "dead":
                found["state"], found["reason"] = "waiting", "The kernel has ended; the next cell starts it."
        return found

"""The Jupyter kernel that runs the agent's cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftbox.errors import UnsupportedError
from graftbox.wire.actions import RunIPython
from graftbox.wire.observations import Failure, IPythonResult

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox


class Kernel:
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def run(self, action: RunIPython) -> IPythonResult | Failure:
        raise UnsupportedError("This bundle has no Jupyter kernel.")

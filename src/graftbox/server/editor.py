"""The agent's text editor."""

from __future__ import annotations

from graftbox.errors import UnsupportedError
from graftbox.server.identity import Identity
from graftbox.wire.actions import Edit
from graftbox.wire.observations import EditResult, Failure


class Editor:
    async def run(self, action: Edit, cwd: str, identity: Identity) -> EditResult | Failure:
        raise UnsupportedError("This server has no editor yet.")

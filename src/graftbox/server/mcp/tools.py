"""The sandbox's own tools, in the order in which clients see them."""

from __future__ import annotations

from collections.abc import Mapping

from graftbox.server.mcp.browse import BROWSE
from graftbox.server.mcp.files import EDIT, GLOB, GREP, LIST, READ, WRITE
from graftbox.server.mcp.running import PYTHON, SHELL
from graftbox.server.mcp.tool import Tool

TOOLS: tuple[Tool, ...] = (SHELL, PYTHON, READ, WRITE, EDIT, LIST, GLOB, GREP, BROWSE)
BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}

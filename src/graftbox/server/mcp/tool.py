"""What a tool of the sandbox is: what a language model is told of it, and what it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mcp_types as types
from mcp.server.context import ServerRequestContext

from graftbox.errors import GraftboxError
from graftbox.server.request import HTTPError
from graftbox.server.schema import MismatchError, Schema, check
from graftbox.wire.actions import InvalidActionError
from graftbox.wire.observations import Failure, Observation

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

CHANGES_ANYTHING = {"read_only_hint": False, "destructive_hint": True, "open_world_hint": True}
CHANGES_FILES = {"read_only_hint": False, "destructive_hint": True, "open_world_hint": False}
READS = {"read_only_hint": True, "open_world_hint": False}


@dataclass(frozen=True)
class Call:
    """One use of a tool: ``given`` are its arguments, checked and with defaults."""

    sandbox: Sandbox
    context: ServerRequestContext[Any, Any]
    given: dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """``properties`` and ``required`` are its parameters' JSON Schema, ``output`` that of its structured
    content; ``present`` says whether a sandbox has it.
    """

    name: str
    title: str
    description: str
    properties: Mapping[str, Schema]
    required: tuple[str, ...]
    run: Callable[[Call], Awaitable[types.CallToolResult]]
    annotations: Mapping[str, bool] = field(default_factory=dict)
    output: Schema | None = None
    present: Callable[[Sandbox], bool] = lambda sandbox: True

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }

    def listed(self) -> types.Tool:
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.schema,
            output_schema=dict(self.output) if self.output else None,
            annotations=types.ToolAnnotations(title=self.title, **self.annotations),
        )

    async def call(self, call: Call) -> types.CallToolResult:
        """Do it; what goes wrong is the tool's answer, for the model to read."""
        try:
            given = check(call.given, self.schema, "arguments")
            call.sandbox.clock.action()
            return await self.run(Call(call.sandbox, call.context, given))
        except (GraftboxError, HTTPError, InvalidActionError, MismatchError) as error:
            return failed(str(error))


def failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)


def said(text: str, structured: dict[str, Any] | None = None) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=structured)


def refused(observation: Observation) -> types.CallToolResult:
    """The answer for an observation other than the expected one."""
    return failed(observation.content if isinstance(observation, Failure) else repr(observation))


def picture(url: str) -> types.ImageContent | None:
    """The picture in a ``data:`` URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        return None
    return types.ImageContent(data=data, mime_type=head[5:-7])

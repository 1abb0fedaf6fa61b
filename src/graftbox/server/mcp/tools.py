"""The sandbox's own tools: what a language model is told of them, and what they do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import mcp_types as types
from mcp.server.context import ServerRequestContext

from graftbox.errors import GraftboxError, NotFoundError
from graftbox.server.conversation import Conversation
from graftbox.server.schema import TEXT, MismatchError, Schema, check
from graftbox.server.sessions import MAIN
from graftbox.wire.actions import Edit, InvalidActionError, Read, Run, RunIPython, Write
from graftbox.wire.observations import (
    EditResult,
    Failure,
    IPythonResult,
    Observation,
    ReadResult,
    RunResult,
    truncated,
)

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

T = TypeVar("T")

WAIT_SECONDS = 45.0
"""A tool answers after this at the latest, unless told to wait longer: many clients give up after 60 s."""
PROGRESS_SECONDS = 2.0
MAX_LINES = 2000
MAX_TEXT = 100_000
"""Characters of a file that one call shows."""

Content = types.TextContent | types.ImageContent


@dataclass(frozen=True)
class Call:
    """One use of a tool: ``given`` are its arguments, checked and with defaults."""

    sandbox: Sandbox
    context: ServerRequestContext[Any, Any]
    given: dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """``properties`` and ``required`` are its parameters' JSON Schema; ``present`` says whether this sandbox
    has it; ``output`` is the schema of its structured content.
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
        except (GraftboxError, InvalidActionError, MismatchError) as error:
            return failed(str(error))


def failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)


def text_result(text: str, structured: dict[str, Any] | None = None) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=structured)


async def shell(call: Call) -> types.CallToolResult:
    given = call.given
    conversation = await _conversation(call.sandbox, given["session"])
    action = Run(
        command=given["command"],
        is_input=given["is_input"],
        blocking=given["blocking"],
        timeout=given["timeout"],
    )
    begins = bool(action.command.strip()) and not action.is_input
    async with _reporting(call.context, "The command is running"):
        observation = await _apart(conversation.run(action, interrupt=begins))
    if isinstance(observation, Failure):
        return failed(observation.content)
    return _shell_result(observation, given["session"], conversation.shell.cwd)


def _shell_result(observation: RunResult, session: str, cwd: str) -> types.CallToolResult:
    metadata = observation.metadata
    output = truncated(observation.content)
    code = None if metadata.exit_code == -1 and metadata.working_dir is None else metadata.exit_code
    # Advice of the protocol's own tool, whose parameters have other names.
    suffix = metadata.suffix.replace(" in execute_bash", "")
    text = f"{metadata.prefix}{output}{suffix}".lstrip("\n")
    if metadata.working_dir is not None:
        text += f"\n[Current working directory: {metadata.working_dir}]"
    running = code is None and bool(metadata.suffix)
    structured = {
        "output": output,
        "exit_code": code,
        "running": running,
        "working_dir": metadata.working_dir or cwd,
        "session": session,
    }
    return text_result(text, structured)


async def _conversation(sandbox: Sandbox, name: str) -> Conversation:
    sessions = sandbox.sessions
    if name == MAIN:
        return (await sessions.main()).conversation
    await sessions.prepare()
    try:
        return sessions.get(name).conversation
    except NotFoundError:
        return (await sessions.open(name)).conversation


async def python(call: Call) -> types.CallToolResult:
    action = RunIPython(call.given["code"], include_extra=False, timeout=call.given["timeout"])
    async with _reporting(call.context, "The cell is running"):
        observation = await _apart(call.sandbox.execute(action))
    if not isinstance(observation, IPythonResult):
        return _refused(observation)
    content: list[Any] = [types.TextContent(text=truncated(observation.content))]
    content += filter(None, map(_image, observation.image_urls))
    return types.CallToolResult(content=content)


async def read(call: Call) -> types.CallToolResult:
    first, count = call.given["offset"], call.given["limit"]
    # One line more than asked for tells whether there are more.
    action = Read(call.given["path"], start=first - 1, end=first + count)
    observation = await call.sandbox.execute(action)
    if not isinstance(observation, ReadResult):
        if observation == Failure("ERROR_BINARY_FILE"):
            return failed(
                f"{action.path} is a binary file; look into it with the shell (file, xxd, strings)."
            )
        return _refused(observation)
    if image := _image(observation.content):
        return types.CallToolResult(content=[image])
    return text_result(_excerpt(observation.content, first, count))


def _excerpt(text: str, first: int, count: int) -> str:
    lines = text.splitlines(keepends=True)
    kept = "".join(lines[:count])
    if len(kept) > MAX_TEXT:
        return f"{kept[:MAX_TEXT]}\n[Cut after {MAX_TEXT} characters; read fewer lines with limit.]"
    if len(lines) > count:
        return f"{kept}[The file goes on; read more with offset {first + count}.]"
    return kept


async def write(call: Call) -> types.CallToolResult:
    observation = await call.sandbox.execute(Write(call.given["path"], call.given["content"]))
    if isinstance(observation, Failure):
        return failed(observation.content)
    return text_result(f"Wrote {call.given['path']}.")


async def edit(call: Call) -> types.CallToolResult:
    given = {name: value for name, value in call.given.items() if value is not None}
    if "view_range" in given:
        given["view_range"] = tuple(given["view_range"])
    observation = await call.sandbox.execute(Edit(**given))
    if not isinstance(observation, EditResult | ReadResult):
        return _refused(observation)
    if observation.content.startswith("ERROR"):
        return failed(observation.content)
    return text_result(observation.content)


def _refused(observation: Observation) -> types.CallToolResult:
    return failed(observation.content if isinstance(observation, Failure) else repr(observation))


def _image(url: str) -> types.ImageContent | None:
    """The picture in a ``data:`` URL."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        return None
    return types.ImageContent(data=data, mime_type=head[5:-7])


_apart_tasks: set[asyncio.Task[Any]] = set()


async def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` in a task of its own, cancelled once with its caller: it may then still tidy up, which
    the library's cancellation, repeated at each await, would not let it.
    """
    task = asyncio.create_task(work)
    _apart_tasks.add(task)
    task.add_done_callback(_apart_tasks.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


@contextlib.asynccontextmanager
async def _reporting(context: ServerRequestContext[Any, Any], what: str) -> AsyncIterator[None]:
    """Tell a client that wants to know, now and then, that the work goes on."""
    if not context.meta or context.meta.get("progress_token") is None:
        yield
        return

    async def report() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            passed = round(loop.time() - start)
            await context.session.report_progress(passed, None, f"{what} for {passed} s.")

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()


def _has_kernel(sandbox: Sandbox) -> bool:
    return find_spec("jupyter_client") is not None


_PATH: Schema = {**TEXT, "minLength": 1, "description": "Absolute, or relative to the shell's folder."}
_TIMEOUT: Schema = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 86400,
    "default": WAIT_SECONDS,
    "description": "Seconds to wait for an answer.",
}
_CHANGES_ANYTHING = {"read_only_hint": False, "destructive_hint": True, "open_world_hint": True}
_READS = {"read_only_hint": True, "open_world_hint": False}
_CHANGES_FILES = {"read_only_hint": False, "destructive_hint": True, "open_world_hint": False}

TOOLS: tuple[Tool, ...] = (
    Tool(
        "shell",
        "Shell",
        "Run a bash command in the sandbox and return its output and exit code. The shell is persistent: "
        "folder, variables and background jobs remain for the next call. A command that is still running "
        "after `timeout`, or silent for some seconds, is answered with its output so far and goes on: call "
        'again with an empty command to read on, with is_input to type into it, or with "C-c" and is_input '
        "to interrupt it. Chain several commands with && or ;. A session of another name is another shell, "
        "made on first use, for what should run side by side.",
        {
            "command": {
                "type": "string",
                "description": 'The command; or, with is_input, the text or key ("C-c", "C-z", "C-d") to '
                "type; empty to read on.",
            },
            "session": {
                "type": "string",
                "default": MAIN,
                "description": "Name of the shell: letters, digits, '.', '_', '-'.",
            },
            "timeout": _TIMEOUT,
            "is_input": {
                "type": "boolean",
                "default": False,
                "description": "Type into the running command instead of starting one.",
            },
            "blocking": {
                "type": "boolean",
                "default": False,
                "description": "Wait for the whole timeout even while the command is silent.",
            },
        },
        ("command",),
        shell,
        _CHANGES_ANYTHING,
        {
            "type": "object",
            "properties": {
                "output": {"type": "string"},
                "exit_code": {"type": ["integer", "null"], "description": "null while it is running"},
                "running": {"type": "boolean"},
                "working_dir": {"type": "string"},
                "session": {"type": "string"},
            },
            "required": ["output", "exit_code", "running", "working_dir", "session"],
        },
    ),
    Tool(
        "python",
        "Python",
        "Run a cell in the sandbox's IPython kernel and return what it prints, its result and its pictures. "
        "Variables remain for the next cell. %pip install and !commands work.",
        {
            "code": {"type": "string", "description": "The cell."},
            "timeout": {**_TIMEOUT, "description": "Seconds after which the cell is interrupted."},
        },
        ("code",),
        python,
        _CHANGES_ANYTHING,
        present=_has_kernel,
    ),
    Tool(
        "read",
        "Read a file",
        f"Read a text file of the sandbox, at most {MAX_LINES} lines at once; pictures are shown.",
        {
            "path": _PATH,
            "offset": {
                "type": "integer",
                "minimum": 1,
                "default": 1,
                "description": "First line, from 1.",
            },
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_LINES,
                "default": MAX_LINES,
                "description": "Number of lines.",
            },
        },
        ("path",),
        read,
        _READS,
    ),
    Tool(
        "write",
        "Write a file",
        "Write a text file of the sandbox, replacing it if it exists; missing folders are made.",
        {"path": _PATH, "content": {"type": "string", "description": "The whole content."}},
        ("path", "content"),
        write,
        {**_CHANGES_FILES, "idempotent_hint": True},
    ),
    Tool(
        "edit",
        "Edit a file",
        "Change a text file of the sandbox. str_replace replaces old_str, which must occur exactly once, by "
        "new_str; insert puts new_str after line insert_line (0: before the first); create makes a new file "
        "of file_text; undo_edit takes the last edit of the file back; view shows the file with line "
        "numbers, or a folder.",
        {
            "command": {
                "type": "string",
                "enum": ["view", "create", "str_replace", "insert", "undo_edit"],
            },
            "path": {**_PATH, "description": "Absolute path."},
            "file_text": {"type": "string", "description": "For create."},
            "old_str": {
                "type": "string",
                "description": "For str_replace: the exact text, with enough lines around it to be unique.",
            },
            "new_str": {"type": "string", "description": "For str_replace and insert."},
            "insert_line": {"type": "integer", "minimum": 0, "description": "For insert."},
            "view_range": {
                "type": "array",
                "items": {"type": "integer"},
                "minItems": 2,
                "maxItems": 2,
                "description": "For view: first and last line; -1 is the end.",
            },
        },
        ("command", "path"),
        edit,
        _CHANGES_FILES,
    ),
)
BY_NAME: Mapping[str, Tool] = {tool.name: tool for tool in TOOLS}

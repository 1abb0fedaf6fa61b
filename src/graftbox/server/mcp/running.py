"""The tools that run something: the shell and Python."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import mcp_types as types
from mcp.server.context import ServerRequestContext

from graftbox.errors import NotFoundError
from graftbox.server.conversation import Conversation
from graftbox.server.mcp.tool import CHANGES_ANYTHING, Call, Tool, failed, picture, refused, said
from graftbox.server.schema import Schema
from graftbox.server.sessions import MAIN
from graftbox.wire.actions import Run, RunIPython
from graftbox.wire.observations import Failure, IPythonResult, RunResult, truncated

if TYPE_CHECKING:
    from graftbox.server.sandbox import Sandbox

T = TypeVar("T")

WAIT_SECONDS = 45.0
"""A tool answers after this at the latest, unless told to wait longer: many clients give up after 60 s."""
PROGRESS_SECONDS = 2.0


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
    async with reporting(call.context, "The command is running"):
        observation = await apart(conversation.run(action, interrupt=begins))
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
    structured = {
        "output": output,
        "exit_code": code,
        "running": code is None and bool(metadata.suffix),
        "working_dir": metadata.working_dir or cwd,
        "session": session,
    }
    return said(text, structured)


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
    async with reporting(call.context, "The cell is running"):
        observation = await apart(call.sandbox.execute(action))
    if not isinstance(observation, IPythonResult):
        return refused(observation)
    content: list[Any] = [types.TextContent(text=truncated(observation.content))]
    content += filter(None, map(picture, observation.image_urls))
    return types.CallToolResult(content=content)


def _has_kernel(sandbox: Sandbox) -> bool:
    if sandbox.settings.kernel_python is not None:
        return True
    return all(find_spec(name) is not None for name in ("ipykernel", "jupyter_client"))


_tasks: set[asyncio.Task[Any]] = set()


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` in a task of its own, cancelled once with its caller: it may then still tidy up, which
    the library's cancellation, repeated at each await, would not let it.
    """
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


@contextlib.asynccontextmanager
async def reporting(context: ServerRequestContext[Any, Any], what: str) -> AsyncIterator[None]:
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


_TIMEOUT: Schema = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 86400,
    "default": WAIT_SECONDS,
    "description": "Seconds to wait for an answer.",
}
SHELL = Tool(
    "shell",
    "Shell",
    "Run a bash command in the sandbox and return its output and exit code. The shell is persistent: folder, "
    "variables and background jobs remain for the next call. A command that is still running after "
    "`timeout`, or silent for some seconds, is answered with its output so far and goes on: call again with "
    'an empty command to read on, with is_input to type into it, or with "C-c" and is_input to interrupt it. '
    "Chain several commands with && or ;. A session of another name is another shell, made on first use, for "
    "what should run side by side.",
    {
        "command": {
            "type": "string",
            "description": 'The command; or, with is_input, the text or key ("C-c", "C-z", "C-d") to type; '
            "empty to read on.",
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
    CHANGES_ANYTHING,
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
)
PYTHON = Tool(
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
    CHANGES_ANYTHING,
    present=_has_kernel,
)

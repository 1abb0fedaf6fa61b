"""What comes back: observations and their JSON shapes.

The OpenHands client passes ``extras`` to a class by keyword, so their keys are exact; only ``run`` tolerates
more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

MAX_OUTPUT = 30_000
"""Characters of command output in an answer; more is cut out of the middle."""

TRUNCATED = "\n[... Observation truncated due to length ...]\n"
CONTINUES = "[Below is the output of the previous command.]\n"
NOTHING_TO_READ = "ERROR: No previous running command to retrieve logs from."
NOTHING_TO_FEED = "ERROR: No previous running command to interact with."
WAITING = (
    "You may wait longer to see additional output by sending empty command '', send other commands to "
    'interact with the current process, send keys ("C-c", "C-z", "C-d") to interrupt/kill the previous '
    "command before sending your new command, or use the timeout parameter in execute_bash for future "
    "commands."
)


@dataclass(frozen=True, slots=True)
class CommandMetadata:
    """How a command ended and where the shell is now; defaults while a command runs.

    ``pid`` is that of the shell's last background job, -1 without one.
    """

    exit_code: int = -1
    pid: int = -1
    username: str | None = None
    hostname: str | None = None
    working_dir: str | None = None
    py_interpreter_path: str | None = None
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class RunResult:
    """Output of a command, or of the part of it since the last answer."""

    content: str
    command: str
    metadata: CommandMetadata = field(default_factory=CommandMetadata)
    hidden: bool = False

    def to_json(self) -> dict[str, Any]:
        code = self.metadata.exit_code
        extras = {"command": self.command, "metadata": asdict(self.metadata), "hidden": self.hidden}
        return {
            "message": f"Command `{self.command}` executed with exit code {code}.",
            "observation": "run",
            "content": self.content if self.hidden else truncated(self.content),
            "extras": extras,
            "success": code == 0,
        }


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Content of a file, or what its viewer says about it."""

    content: str
    path: str
    impl_source: str = "default"

    def to_json(self) -> dict[str, Any]:
        return {
            "message": f"I read the file {self.path}.",
            "observation": "read",
            "content": self.content,
            "extras": {"path": self.path, "impl_source": self.impl_source},
        }


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A file was written."""

    path: str

    def to_json(self) -> dict[str, Any]:
        return {
            "message": f"I wrote to the file {self.path}.",
            "observation": "write",
            "content": "",
            "extras": {"path": self.path},
        }


@dataclass(frozen=True, slots=True)
class EditResult:
    """What the editor says, mistakes in the request included; ``diff`` is a unified diff of the change."""

    content: str
    path: str
    old_content: str | None = None
    new_content: str | None = None
    diff: str = ""
    impl_source: str = "oh_aci"

    def to_json(self) -> dict[str, Any]:
        return {
            "message": f"I edited the file {self.path}.",
            "observation": "edit",
            "content": self.content,
            "extras": {
                "path": self.path,
                "prev_exist": False,
                "old_content": self.old_content,
                "new_content": self.new_content,
                "impl_source": self.impl_source,
                "diff": self.diff,
                "_diff_cache": None,
            },
        }


@dataclass(frozen=True, slots=True)
class IPythonResult:
    """Text of a cell's output, and its pictures as ``data:`` URLs."""

    content: str
    code: str
    image_urls: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "message": "Code executed in IPython cell.",
            "observation": "run_ipython",
            "content": self.content,
            "extras": {"code": self.code, "image_urls": list(self.image_urls) or None},
            "success": True,
        }


@dataclass(frozen=True, slots=True)
class BrowseResult:
    """A page: ``content`` as text for the agent, ``extras`` as the client's class takes them."""

    content: str
    extras: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "message": f"Visited {self.extras['url']}",
            "observation": "browse",
            "content": self.content,
            "extras": self.extras,
        }


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """The browser has downloaded a file, which is now at ``file_path``."""

    content: str
    file_path: str

    def to_json(self) -> dict[str, Any]:
        return {
            "message": f"Downloaded the file at location: {self.file_path}",
            "observation": "download",
            "content": self.content,
            "extras": {"file_path": self.file_path},
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """The action could not be done, for a reason that the agent should read."""

    content: str

    def to_json(self) -> dict[str, Any]:
        return {
            "message": self.content,
            "observation": "error",
            "content": self.content,
            "extras": {"error_id": ""},
        }


Observation = (
    RunResult
    | IPythonResult
    | ReadResult
    | WriteResult
    | EditResult
    | BrowseResult
    | DownloadResult
    | Failure
)


def truncated(content: str, limit: int = MAX_OUTPUT) -> str:
    """``content`` with its middle cut out when it is longer than ``limit`` characters."""
    if len(content) <= limit:
        return content
    half = limit // 2
    return content[:half] + TRUNCATED + content[-half:]


def several_commands(commands: list[str]) -> Failure:
    """The refusal of a request that holds more than one command."""
    listed = "\n".join(f"({number}) {text}" for number, text in enumerate(commands, 1))
    return Failure(
        "ERROR: Cannot execute multiple commands at once.\n"
        "Please run each command separately OR chain them into a single command via && or ;\n"
        f"Provided commands:\n{listed}"
    )

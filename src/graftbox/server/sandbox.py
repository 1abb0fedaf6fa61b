"""What the server's actions work on: the shell, the files, and the state they share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from graftbox.errors import GraftboxError
from graftbox.server import files
from graftbox.server.conversation import Conversation, run_apart
from graftbox.server.environment import Environment, find_shells, find_tmux, make_runtime_folder
from graftbox.server.identity import Identity
from graftbox.server.info import Clock
from graftbox.server.sessions import Sessions
from graftbox.server.settings import Settings
from graftbox.server.shell import Shell
from graftbox.server.tmux import Tmux
from graftbox.wire.actions import Action, Browse, BrowseInteractive, Edit, Read, Run, RunIPython, Write
from graftbox.wire.observations import Failure, Observation

if TYPE_CHECKING:
    from graftbox.server.editor import Editor
    from graftbox.server.kernel import Kernel
    from graftbox.server.mcp import Mcp

log = logging.getLogger("graftbox.sandbox")


class Sandbox:
    """Everything behind the HTTP face. Usable before the first shell is ready: its first command waits for
    it.
    """

    def __init__(self, settings: Settings, environment: Environment) -> None:
        self.settings = settings
        self.environment = environment
        self.identity = Identity.own()
        self.clock = Clock()
        self.folder: Path | None = None
        self.tmux: Tmux | None = None
        self.conversation: Conversation | None = None
        self.opening = asyncio.Lock()
        self.sessions = Sessions(self)

    async def open(self) -> Conversation:
        """The main shell's conversation; raises `GraftboxError` where no shell can run."""
        async with self.opening:
            if self.conversation is None:
                if self.tmux is None:
                    binary = find_tmux(self.environment)
                    self.folder, self.lock = make_runtime_folder(self.environment, self.settings.working_dir)
                    self.tmux = Tmux(binary, self.folder)
                self.conversation = Conversation(self._shell(self.tmux), self.settings.silence)
            return self.conversation

    def _shell(self, tmux: Tmux, cwd: str | None = None) -> Shell:
        shells = find_shells(self.environment, self.settings.shell)
        return Shell(tmux, self.environment, shells, cwd or self.settings.working_dir)

    async def prepare(self) -> None:
        """Start the main shell ahead of its first command; a failure is logged, and told to that command."""
        try:
            conversation = await self.open()
            await conversation.shell.start()
        except (GraftboxError, OSError) as error:
            log.error("The shell did not start: %s", error)

    @property
    def cwd(self) -> str:
        return self.conversation.shell.cwd if self.conversation else self.settings.working_dir

    @cached_property
    def kernel(self) -> Kernel:
        """The Jupyter kernel; it starts with its first cell."""
        from graftbox.server.kernel import Kernel

        return Kernel(self)

    @cached_property
    def editor(self) -> Editor:
        from graftbox.server.editor import Editor

        return Editor()

    @cached_property
    def mcp(self) -> Mcp:
        from graftbox.server.mcp import Mcp

        return Mcp(self)

    async def execute(self, action: Action) -> Observation:
        """What came of ``action``; raises `GraftboxError` or `InvalidActionError` where it can't be done."""
        match action:
            case Run():
                return await self._run(action)
            case RunIPython():
                return await self.kernel.run(action)
            case Read():
                return await self.identity.call(files.read, action, self.cwd)
            case Write():
                return await self.identity.call(files.write, action, self.cwd)
            case Edit():
                return await self.editor.run(action, self.cwd, self.identity)
            case Browse() | BrowseInteractive():
                return Failure("Browser functionality is not supported or disabled.")

    async def _run(self, action: Run) -> Observation:
        conversation = await self.open()
        if action.is_static:
            assert self.tmux is not None
            return await run_apart(action, self._shell(self.tmux, action.cwd), self.settings.silence)
        return await conversation.run(action)

    async def close(self) -> None:
        if "mcp" in self.__dict__:
            await self.mcp.close()
        if self.tmux:
            await self.tmux.close()
        if self.folder:
            with contextlib.suppress(OSError):
                shutil.rmtree(self.folder)
            os.close(self.lock)

"""What the server's actions work on: the shell, the files, and the state they share."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING

from graftbox.errors import GraftboxError
from graftbox.server import files
from graftbox.server.conversation import Conversation
from graftbox.server.environment import Environment
from graftbox.server.identity import Identity
from graftbox.server.info import Clock
from graftbox.server.sessions import Sessions
from graftbox.server.settings import Settings
from graftbox.wire.actions import Action, Browse, BrowseInteractive, Edit, Read, Run, RunIPython, Write
from graftbox.wire.observations import Observation

if TYPE_CHECKING:
    from graftbox.server.browser.browser import Browser
    from graftbox.server.browser.browsing import Browsing
    from graftbox.server.editor import Editor
    from graftbox.server.jobs import Jobs
    from graftbox.server.kernel.kernels import Kernels
    from graftbox.server.mcp import Mcp
    from graftbox.server.plugins.plugins import Plugins

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
        self.sessions = Sessions(self)

    async def open(self) -> Conversation:
        """The main shell's conversation; raises `GraftboxError` where no shell can run."""
        return (await self.sessions.main()).conversation

    async def prepare(self) -> None:
        """Start the main shell ahead of its first command; a failure is logged, and told to that command."""
        try:
            await self.sessions.main()
        except (GraftboxError, OSError) as error:
            log.error("The shell did not start: %s", error)
        if self.settings.plugins:
            await self.plugins.start_chosen()
        if self.settings.browser:
            await self.browser.prepare()

    @property
    def cwd(self) -> str:
        """Where the main shell is."""
        return self.sessions.cwd

    @cached_property
    def kernels(self) -> Kernels:
        """The Jupyter kernels; the main one starts with its first cell, or with the plugin ``jupyter``."""
        from graftbox.server.kernel.kernels import Kernels

        return Kernels(self)

    @cached_property
    def plugins(self) -> Plugins:
        from graftbox.server.plugins.plugins import Plugins

        return Plugins(self)

    @cached_property
    def browsing(self) -> Browsing:
        """The agent's tabs in it."""
        from graftbox.server.browser.browsing import Browsing

        return Browsing(self)

    @cached_property
    def editor(self) -> Editor:
        from graftbox.server.editor import Editor

        return Editor()

    @cached_property
    def mcp(self) -> Mcp:
        from graftbox.server.mcp import Mcp

        return Mcp(self)

    @cached_property
    def browser(self) -> Browser:
        """Chromium, which starts with its first use."""
        from graftbox.server.browser.browser import Browser

        return Browser(self)

    @cached_property
    def jobs(self) -> Jobs:
        """The background commands."""
        from graftbox.server.jobs import Jobs

        return Jobs(self.environment, self.settings.working_dir, self.settings.limits)

    async def execute(self, action: Action) -> Observation:
        """What came of ``action``; raises `GraftboxError` or `InvalidActionError` where it can't be done."""
        match action:
            case Run():
                return await self._run(action)
            case RunIPython():
                return await self.kernels.run(action)
            case Read():
                return await self.identity.call(files.read, action, self.cwd)
            case Write():
                return await self.identity.call(files.write, action, self.cwd)
            case Edit():
                return await self.editor.run(action, self.cwd, self.identity)
            case Browse() | BrowseInteractive():
                return await self.browsing.run(action)

    async def _run(self, action: Run) -> Observation:
        if action.is_static:
            async with self.sessions.apart(action.cwd) as session:
                return await session.conversation.run(action)
        return await (await self.open()).run(action)

    async def close(self) -> None:
        if "mcp" in self.__dict__:
            await self.mcp.close()
        if "jobs" in self.__dict__:
            await self.jobs.close()
        if "plugins" in self.__dict__:
            await self.plugins.close()
        if "kernels" in self.__dict__:
            await self.kernels.close()
        if "browsing" in self.__dict__:
            await self.browsing.close()
        if "browser" in self.__dict__:
            await self.browser.close()
        await self.sessions.end()

"""Playwright, on a thread with an event loop of its own, and its Node.js process.

The thread is there because Playwright reads messages of megabytes whole: that must not hold up the server.
The Node.js process runs as the user of the sandbox's actions, with an environment of ours: what the container
has in ``NODE_OPTIONS`` is none of its business. It ends when its standard input does, so with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graftbox.errors import UnsupportedError
from graftbox.server import oom
from graftbox.server.browser.marking import ATTRIBUTE
from graftbox.server.environment import bundled
from graftbox.server.identity import Identity

if TYPE_CHECKING:
    from playwright.async_api import Browser, Playwright

T = TypeVar("T")

CONNECT_MS = 30_000
STOP_SECONDS = 3.0
_MISSING = "This bundle has no Playwright: add the component browser to it."
_STARTING = threading.Lock()


class Driver:
    """``playwright`` and ``pid`` once it runs; ``folder`` is made for its temporary files, and goes with it:
    a process that is killed leaves them there.

    `run` and `close` are for the server's event loop, the other methods for coroutines on the driver's own.
    """

    def __init__(self, identity: Identity, folder: Path) -> None:
        self.identity = identity
        self.folder = folder
        self.playwright: Playwright | None = None
        self.pid = 0
        self._starting: asyncio.Future[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="browser", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` returns on the driver's thread; cancelled there when the caller is."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def start(self) -> None:
        """Start Node.js, once; raises `UnsupportedError`, or Playwright's errors."""
        if self._starting is None or (self._starting.done() and self.playwright is None):
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        # Python takes in as much of Playwright as Node.js does: that goes on at the same time.
        process = await self._spawn()
        try:
            playwright = await _client(process)
        except BaseException:
            assert process.stdin is not None
            process.stdin.close()
            raise
        playwright.selectors.set_test_id_attribute(ATTRIBUTE)
        self.playwright = playwright
        self.pid = process.pid

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Node.js; raises `UnsupportedError`, or `OSError` where it can't have its folder."""
        await asyncio.to_thread(self._prepare)
        try:
            process = await asyncio.create_subprocess_exec(
                *command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL if Path(os.devnull).exists() else None,
                limit=1024 * 1024,
                env=_environment(self.folder),
                cwd="/",
                start_new_session=True,
                **self.identity.popen(),
            )
        except ImportError as error:
            raise UnsupportedError(_MISSING) from error
        except OSError as error:
            raise UnsupportedError(f"Node.js can't be started: {error.strerror}.") from error
        oom.offer(process.pid)
        return process

    async def connect(self, endpoint: str, headers: dict[str, str]) -> Browser:
        """The browser at this address; raises Playwright's errors."""
        assert self.playwright is not None
        return await self.playwright.chromium.connect_over_cdp(
            endpoint, headers=headers, timeout=CONNECT_MS, is_local=True
        )

    @property
    def alive(self) -> bool:
        """Whether Node.js runs, as far as is known; a process that has ended shows in /proc as a zombie."""
        if self.playwright is None:
            return True  # it is still to start
        try:
            state = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            return False
        return state not in (b"Z", b"X")

    async def abandon(self, browser: Browser) -> None:
        """Leave a browser with its tabs, if it is still there."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.run(browser.close()), STOP_SECONDS)

    async def _stop(self) -> None:
        if self.playwright is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self.playwright.stop(), STOP_SECONDS)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def close(self) -> None:
        """End Node.js and the thread; called on the server's event loop."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(Exception):
            await self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.identity.switched:
            os.chown(self.folder, self.identity.uid, self.identity.gid)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


async def _client(process: asyncio.subprocess.Process) -> Playwright:
    """Playwright's Python side for the Node.js side that ``process`` is; raises `UnsupportedError`."""
    try:
        from playwright._impl import out_of_process, transport
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise UnsupportedError(_MISSING) from error

    class Pipe(transport.PipeTransport):
        """As Playwright's own, but with a process that was started before."""

        async def connect(self) -> None:
            self._stopped_future = asyncio.get_running_loop().create_future()
            self.on_error_future.add_done_callback(lambda future: future.exception())
            self._proc = process
            self._output = process.stdin

    with _STARTING:
        # The client takes the class from its module when it is made, before it first waits.
        theirs = vars(out_of_process)["PipeTransport"]
        vars(out_of_process)["PipeTransport"] = Pipe
        try:
            starting = asyncio.ensure_future(async_playwright().start())
            await asyncio.sleep(0)
        finally:
            vars(out_of_process)["PipeTransport"] = theirs
    return await starting


def command() -> list[str]:
    """How the driver is started: the bundle's Node.js, else the one that Playwright brings."""
    import playwright

    folder = Path(playwright.__file__).parent / "driver"
    node = bundled("oh-node") or str(folder / "node")
    return [node, str(folder / "package" / "cli.js"), "run-driver"]


def _environment(folder: Path) -> dict[str, str]:
    from playwright._impl._driver import get_driver_env

    kept = {name: value for name, value in get_driver_env().items() if name.startswith("PW_")}
    own = {"HOME": str(folder), "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"}
    return {"PATH": "/usr/bin:/bin", **own, **kept}

"""Chromium, a page's process and the server killed in the middle of what they do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.browser.conftest import SECONDS, leave_something, living, zombies
from tests.unit.server.conftest import until

from graftbox.server.browser import browser as chromium
from graftbox.server.browser.errors import BrowserError
from graftbox.server.environment import Environment
from graftbox.server.sandbox import Sandbox
from graftbox.server.settings import Settings

LONG = {"expression": "new Promise(done => setTimeout(done, 50000))", "timeout": 55}


def renderers(group: int) -> list[int]:
    return [pid for pid, line in living(group).items() if "--type=renderer" in line]


def at_work(browser: Any, page: str, threads: ThreadPoolExecutor) -> Future[tuple[int, Any]]:
    """The answer to a script that takes long, which has begun."""
    script = {**LONG, "expression": f"document.title = 'at work'; {LONG['expression']}"}
    waiting = threads.submit(browser.ask, "POST", f"/pages/{page}/evaluate", script)
    until(lambda: browser.ask("GET", f"/pages/{page}")[1]["title"] == "at work")
    return waiting


def test_a_killed_browser_is_told_of_and_started_anew(browser: Any, site: str) -> None:
    page = browser.open(f"{site}/")
    pid = browser.pid
    assert len(living(pid)) > 3
    left = leave_something(pid)
    with ThreadPoolExecutor() as threads:
        waiting = at_work(browser, page, threads)
        os.kill(pid, signal.SIGKILL)
        status, answer = waiting.result()
    assert status == 503
    assert "ended" in answer["detail"]
    until(lambda: not living(pid))
    found = browser.ask("GET", "")[1]
    assert (found["state"], found["pid"], found["pages"]) == ("stopped", None, [])
    assert "SIGKILL" in found["reason"]
    status, answer = browser.ask("GET", f"/pages/{page}/screenshot")
    assert status == 404
    assert "SIGKILL" in answer["detail"]
    again = browser.open(f"{site}/")
    assert browser.get("GET", f"/pages/{again}/screenshot")[0] == 200
    assert browser.ask("GET", "")[1]["starts"] == found["starts"] + 1
    assert not [path for path in left if path.exists()]
    until(lambda: not zombies(browser.client.process.pid))


def test_a_killed_page_is_told_of_and_others_go_on(browser: Any, site: str) -> None:
    kept = browser.open(f"{site}/")
    before = set(renderers(browser.pid))
    page = browser.open(f"{site}/".replace("127.0.0.1", "localhost"))
    with ThreadPoolExecutor() as threads:
        waiting = at_work(browser, page, threads)
        for pid in set(renderers(browser.pid)) - before:
            os.kill(pid, signal.SIGKILL)
        status, answer = waiting.result()
    assert status == 502
    assert "open it again" in answer["detail"]
    assert browser.ask("GET", f"/pages/{page}/text")[0] == 502
    assert browser.evaluate(kept, "document.title") == "Start"
    assert browser.ask("POST", f"/pages/{page}/goto", {"url": f"{site}/other"})[1]["title"] == "Other"
    until(lambda: not zombies(browser.client.process.pid))


def test_a_browser_that_hangs_is_ended(browser: Any, site: str) -> None:
    page = browser.open(f"{site}/")
    pid = browser.pid
    left = leave_something(pid)
    os.kill(pid, signal.SIGSTOP)
    assert browser.ask("GET", f"/pages/{page}/screenshot?timeout=1")[0] == 504
    until(lambda: not living(pid))
    assert browser.evaluate(browser.open(f"{site}/"), "document.title") == "Start"
    assert not [path for path in left if path.exists()]
    until(lambda: not zombies(browser.client.process.pid))


def test_a_browser_that_does_not_come_up_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chromium, "START_SECONDS", 0.2)
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)

    async def work() -> None:
        environment = Environment((b"PATH=/usr/bin:/bin", b"GRAFTBOX_CHROMIUM=" + bytes(program)))
        sandbox = Sandbox(Settings(port=None, working_dir=str(tmp_path)), environment)
        sandbox.browser.sandboxed = False
        try:
            with pytest.raises(BrowserError, match=r"SIGKILL.* when it was started: No answer to"):
                await sandbox.browser.router()
        finally:
            await sandbox.close()

    asyncio.run(work())
    assert caplog.text.count("It is started once more.") == 1


def test_a_restart_ends_all_pages(browser: Any, site: str) -> None:
    browser.open(f"{site}/")
    pid = browser.pid
    status, found = browser.ask("POST", "/restart")
    assert (status, found["state"], found["pages"]) == (200, "running", [])
    assert found["pid"] != pid
    until(lambda: not living(pid))
    assert browser.get("DELETE", "")[0] == 204
    assert browser.ask("GET", "")[1]["state"] == "stopped"
    until(lambda: not living(found["pid"]))


def test_nothing_of_the_browser_outlives_a_server_that_stops(launch: Callable[..., Any], site: str) -> None:
    browser = launch()
    browser.open(f"{site}/")
    pid = browser.pid
    folder = Path(f"/proc/{pid}/cwd").readlink()
    browser.client.process.terminate()
    assert browser.client.process.wait(SECONDS) == 0
    until(lambda: not living(pid))
    assert not folder.parent.parent.exists()


def test_nothing_of_the_browser_outlives_a_server_that_is_killed(
    launch: Callable[..., Any], site: str
) -> None:
    browser = launch()
    page = browser.open(f"{site}/")
    pid = browser.pid
    folder = Path(f"/proc/{pid}/cwd").readlink().parent.parent
    with ThreadPoolExecutor() as threads:
        busy = threads.submit(browser.ask, "POST", f"/pages/{page}/evaluate", {"expression": "for (;;);"})
        time.sleep(0.2)
        browser.client.process.kill()
        assert isinstance(busy.exception(), ConnectionError)
    browser.client.process.wait()
    until(lambda: not living(pid))
    browser.client.process.returncode = 0
    # A folder this old is nobody's.
    os.utime(folder, (0, 0))
    other = launch()
    assert other.evaluate(other.open(f"{site}/"), "document.title") == "Start"
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the browser as another user")
def test_the_browser_runs_as_the_user_of_the_actions(launch: Callable[..., Any], site: str) -> None:
    browser = launch("--user-id", "54321")
    browser.open(f"{site}/")
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in living(browser.pid)} == {54321}
    feature = browser.client.ask("GET", "/v1/capabilities")[1]["features"]["browser"]
    assert feature["works"]
    # The container decides whether there is a sandbox; either way it is said.
    assert feature["sandboxed"] is (feature["sandbox_reason"] is None)

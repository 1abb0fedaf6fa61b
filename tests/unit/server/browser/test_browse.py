"""`browse` and `browse_interactive` over HTTP and MCP, with a real Chromium and Playwright's real driver."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import threading
import time
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mcp import Client as McpClient
from tests.unit.server.browser.acting import act, bid, do, error
from tests.unit.server.browser.conftest import SECONDS, leave_something, living, zombies
from tests.unit.server.conftest import until

from graftbox.server.browser.png import decode

if TYPE_CHECKING:
    from tests.unit.server.browser.conftest import Tester

PAGE = """<title>Form</title><h1>Form</h1><input id=name><button onclick="out.textContent = 'Hello ' +
document.querySelector('#name').value">Go</button><p id=out></p><button onclick="alert(1)">Alert</button>
<button onclick="while (true);">Hang</button><button onclick="window.open('/other')">Popup</button>
<button onclick="fetch('/slow').then(() => out.textContent = 'fetched')">Fetch</button>
<a href="/data" download="my data.csv">Download</a><input type=file onchange="out.textContent = value">"""


@pytest.fixture(scope="module")
def form(browser: Tester) -> str:
    (browser.folder / "form.html").write_text(PAGE)
    return f"file://{browser.folder}/form.html"


def test_a_page_that_changes_while_it_is_looked_at_is_looked_at_again(browser: Tester) -> None:
    # It gets green as soon as its elements are given their ids.
    page = """<style>body { background: #f00 } body.green { background: #0f0 }</style><body><script>
    const change = (_, observer) => { observer.disconnect(); document.body.className = 'green'; };
    new MutationObserver(change).observe(document.body, {attributes: true});</script>"""
    (browser.folder / "change.html").write_text(page)
    answer = act(browser, "browse", url=f"file://{browser.folder}/change.html")
    picture = decode(b64decode(answer["extras"]["screenshot"].partition(",")[2]))
    row = picture.values[300].to_bytes(picture.width * picture.channels, "little")
    assert row[:3] == b"\0\xff\0"


def test_a_page_is_read_as_text_and_photographed(browser: Tester, site: str) -> None:
    answer = act(browser, "browse", url=f"{site}/")
    assert answer["message"] == f"Visited {site}/"
    assert "BEGIN webpage content ==============\n#  Hello \n\n[ there ](/other)" in answer["content"]
    extras = answer["extras"]
    assert b64decode(extras["screenshot"].partition(",")[2]).startswith(b"\x89PNG")
    assert Path(extras["screenshot_path"]).read_bytes() == b64decode(extras["screenshot"].partition(",")[2])
    assert Path(extras["screenshot_path"]).parent == browser.folder / ".browser_screenshots"
    assert (extras["url"], extras["open_pages_urls"], extras["active_page_index"]) == (
        f"{site}/",
        [f"{site}/"],
        0,
    )


def test_a_form_is_filled_in_by_the_ids_of_its_elements(browser: Tester, form: str) -> None:
    answer = do(browser, f'goto("{form}")')
    name, go = bid(answer, "textbox"), bid(answer, "button 'Go'")
    answer = do(browser, f'fill("{name}", "Jane")\nclick("{go}")')
    assert error(answer) == ""
    assert "StaticText 'Hello Jane'" in answer["content"]
    assert f"[Focused element bid: {go}]" in answer["content"]


def test_what_a_click_fetches_is_waited_for(browser: Tester, form: str) -> None:
    answer = do(browser, f'goto("{form}")')
    answer = do(browser, f'''click("{bid(answer, "button 'Alert'")}")''')
    assert error(answer) == ""


def test_the_tree_and_the_places_of_elements_come_when_they_are_asked_for(browser: Tester, form: str) -> None:
    answer = do(browser, f'goto("{form}")', return_axtree=True)["extras"]
    nodes = answer["axtree_object"]["nodes"]
    known = {node["browsergym_id"] for node in nodes if "browsergym_id" in node}
    assert known <= answer["extra_element_properties"].keys()
    assert nodes[0]["role"]["value"] == "RootWebArea"
    assert do(browser, "noop(0)")["extras"]["axtree_object"] == {}


def test_the_page_keeps_no_trace_but_the_ids(browser: Tester, form: str) -> None:
    do(browser, f'goto("{form}")')
    page = next(page["id"] for page in browser.ask("GET", "")[1]["pages"] if page["url"] == form)
    html = browser.evaluate(page, "document.documentElement.outerHTML")
    assert 'bid="0"' in html
    assert "browsergym" not in html
    assert "aria-" not in html


def test_tabs_are_opened_chosen_and_closed_and_one_is_always_left(browser: Tester, form: str) -> None:
    answer = do(browser, f'goto("{form}")')
    popup = bid(answer, "button 'Popup'")
    extras = do(browser, f'click("{popup}")', once=True)["extras"]
    if extras["active_page_index"] != 1:  # on a busy machine it may be there after the click's answer
        until(lambda: do(browser, "noop(0)")["extras"]["active_page_index"] == 1)
        extras = do(browser, "noop(0)")["extras"]
    assert extras["active_page_index"] == 1
    assert do(browser, "tab_focus(0)")["extras"]["url"] == form
    assert do(browser, "new_tab()")["extras"]["url"] == "about:blank"
    extras = do(browser, "tab_close() tab_close() tab_close()")["extras"]
    assert (extras["open_pages_urls"], extras["active_page_index"]) == (["about:blank"], 0)


def test_python_is_not_run(browser: Tester, tmp_path: Path) -> None:
    answer = do(browser, f"open({str(tmp_path / 'x')!r}, 'w')")
    assert error(answer) == "NameError: Invalid action type 'open'."
    answer = do(browser, "click(().__class__)")
    assert error(answer) == "ValueError: Received an empty action."
    assert not list(tmp_path.iterdir())


def test_a_download_goes_into_the_workspace(browser: Tester, site: str) -> None:
    (browser.folder / "link.html").write_text(
        f"<a href='data:text/csv,a;b' download='my data.csv'>Get</a>{site}"
    )
    answer = do(browser, f'goto("file://{browser.folder}/link.html")')
    answer = do(browser, f'''click("{bid(answer, "link 'Get'")}")''')
    assert answer["observation"] == "download", answer["content"]
    path = Path(answer["extras"]["file_path"])
    assert (path.parent, path.suffix, path.read_text()) == (browser.folder, ".csv", "a;b")
    assert (browser.folder / ".downloads" / "my data.csv").exists()


def test_a_file_of_the_workspace_is_uploaded(browser: Tester, form: str) -> None:
    (browser.folder / "mine.txt").write_text("x")
    answer = do(browser, f'goto("{form}")')
    answer = do(browser, f'''upload_file("{bid(answer, "button 'Choose File'")}", "mine.txt")''')
    assert error(answer) == ""
    assert "mine.txt'" in answer["content"]


def test_a_page_that_never_loads_ends_with_its_time(browser: Tester, site: str) -> None:
    do(browser, "noop(0)")
    began = time.monotonic()
    answer = do(browser, f'goto("{site}/never")', timeout=4)
    assert error(answer).startswith("TimeoutError: Page.goto: Timeout 3000ms exceeded.")
    assert time.monotonic() - began < 20
    assert error(do(browser, f'goto("{site}/")')) == ""


def test_a_page_that_hangs_is_closed_and_the_next_action_works(browser: Tester, form: str) -> None:
    answer = do(browser, f'goto("{form}")')
    answer = do(browser, f'''click("{bid(answer, "button 'Hang'")}")''', timeout=4)
    assert "does not answer" in error(answer)
    assert error(do(browser, f'goto("{form}")')) == ""


def test_a_crashed_page_is_told_of_and_the_next_action_works(browser: Tester, form: str) -> None:
    do(browser, f'goto("{form}")')
    answer = do(browser, 'goto("chrome://crash")')
    assert error(answer)
    assert error(do(browser, f'goto("{form}")')) == ""


def killed_while_waiting(browser: Tester, form: str, pids: Callable[[], list[int]]) -> Any:
    """The answer to an action during which these processes are killed."""
    do(browser, f'goto("{form}")')
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(do, browser, f'goto("{form}#at-work")\nnoop(30000)')
        until(lambda: f"{form}#at-work" in browser.urls)
        for pid in pids():
            os.kill(pid, signal.SIGKILL)
        return waiting.result()


def drivers(server: int) -> list[int]:
    """Playwright's processes of Node.js among the children of a server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server and b"run-driver" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def folders(browser: Tester) -> list[Path]:
    """What Playwright's processes have for temporary files."""
    return [*Path(f"/proc/{browser.pid}/cwd").readlink().parent.glob("d*/*")]


def test_a_killed_browser_is_told_of_and_the_next_action_works(browser: Tester, form: str) -> None:
    do(browser, f'goto("{form}")')
    pid = browser.pid
    left = leave_something(pid)
    answer = killed_while_waiting(browser, form, lambda: [pid])
    assert "Chromium was killed by signal 9 (SIGKILL). All tabs are gone" in error(answer)
    answer = do(browser, f'goto("{form}")')
    assert (error(answer), answer["extras"]["open_pages_urls"]) == ("", [form])
    assert not [path for path in left if path.exists()]
    until(lambda: not living(pid))
    until(lambda: not zombies(browser.client.process.pid))
    until(lambda: len(folders(browser)) == 1)


def test_a_killed_page_is_told_of_and_the_next_action_works(browser: Tester, form: str) -> None:
    do(browser, f'goto("{form}")')
    pid = browser.pid

    def renderers() -> list[int]:
        return [each for each, line in living(pid).items() if "--type=renderer" in line]

    answer = killed_while_waiting(browser, form, renderers)
    assert "crashed" in error(answer)
    answer = do(browser, f'goto("{form}")')
    assert (error(answer), answer["extras"]["open_pages_urls"]) == ("", [form])
    assert browser.pid == pid
    until(lambda: browser.urls == [form])
    until(lambda: not zombies(browser.client.process.pid))


def test_a_killed_driver_is_told_of_and_the_next_action_works(browser: Tester, form: str) -> None:
    do(browser, f'goto("{form}")')
    pid = browser.pid
    answer = killed_while_waiting(browser, form, lambda: drivers(browser.client.process.pid))
    assert "Playwright, which drives the browser, has ended. All tabs are gone" in error(answer)
    answer = do(browser, f'goto("{form}")')
    assert (error(answer), answer["extras"]["open_pages_urls"]) == ("", [form])
    assert len(drivers(browser.client.process.pid)) == 1
    assert browser.pid == pid
    # The tabs went with it, and its files.
    until(lambda: browser.urls == [form])
    assert len(folders(browser)) == 1
    until(lambda: not zombies(browser.client.process.pid))


def test_two_actions_at_once_run_one_after_the_other(browser: Tester, form: str) -> None:
    do(browser, f'goto("{form}")')
    with ThreadPoolExecutor() as threads:
        first, second = threads.submit(do, browser, "noop(500)"), threads.submit(do, browser, "new_tab()")
        assert error(first.result()) == error(second.result()) == ""
    do(browser, "tab_close()")


def test_the_server_answers_while_a_page_is_looked_at(browser: Tester, form: str) -> None:
    (browser.folder / "large.html").write_text("<p>word " * 1000)
    waiting = threading.Thread(
        target=act, args=(browser, "browse"), kwargs={"url": f"file://{browser.folder}/large.html"}
    )
    waiting.start()
    while waiting.is_alive():
        connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=SECONDS)
        connection.request("GET", "/alive")
        assert connection.getresponse().status == 200
        connection.close()
        time.sleep(0.1)


@pytest.mark.parametrize("action", ["GET_EVAL_GOAL", "GET_EVAL_REWARDS"])
def test_there_are_no_evaluation_environments(browser: Tester, action: str) -> None:
    answer = do(browser, action)
    assert answer["extras"]["screenshot"] is None
    assert answer["content"].startswith("[Current URL: ]\n[Focused element bid: None]\n\n[Action executed")


def test_a_path_is_opened_as_a_file_and_a_bare_name_as_a_host(browser: Tester, form: str) -> None:
    answer = act(browser, "browse", url=f"{browser.folder}/form.html")
    assert answer["extras"]["url"] == form
    answer = act(browser, "browse", url="localhost:1/x")
    assert answer["extras"]["last_browser_action"] == 'goto("http://localhost:1/x")'


def test_a_model_uses_the_browser_as_a_tool(browser: Tester, site: str) -> None:
    async def work() -> list[Any]:
        async with McpClient(f"http://127.0.0.1:{browser.port}/mcp") as mcp:
            page = await mcp.call_tool("browse", {"url": f"{site}/"})
            tree = await mcp.call_tool("browse", {"actions": "noop(0)", "marks": True})
            wrong = await mcp.call_tool("browse", {})
            failed = await mcp.call_tool("browse", {"actions": "click('999')", "screenshot": False})
            return [page, tree, wrong, failed]

    page, tree, wrong, failed = asyncio.run(work())
    assert "Hello" in page.content[0].text
    assert page.content[1].mime_type == "image/png"
    assert "link 'there'" in tree.content[0].text
    assert len(tree.content) == 2
    assert wrong.is_error
    assert failed.is_error
    assert [part.type for part in failed.content] == ["text"]
    assert 'Could not find element with bid "999"' in failed.content[0].text


def test_without_a_browser_both_are_refused(launch: Callable[..., Tester]) -> None:
    server = launch("--no-enable-browser")
    for answer in (act(server, "browse", url="http://x/"), do(server, "noop()")):
        assert answer["observation"] == "error"
        assert answer["content"] == "Browser functionality is not supported or disabled."


def test_nothing_is_left_when_the_server_ends(launch: Callable[..., Tester], site: str) -> None:
    server = launch()
    act(server, "browse", url=f"{site}/")
    (node,) = drivers(server.client.process.pid)
    server.client.process.terminate()
    assert server.client.process.wait(SECONDS) == 0
    until(lambda: not Path(f"/proc/{node}").exists())


def test_nothing_is_left_when_the_server_is_killed(launch: Callable[..., Tester], site: str) -> None:
    server = launch()
    act(server, "browse", url=f"{site}/")
    pid, (node,) = server.pid, drivers(server.client.process.pid)
    server.client.process.kill()
    server.client.process.wait()
    until(lambda: not (living(node) or living(pid)))
    server.client.process.returncode = 0

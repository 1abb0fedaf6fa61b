"""What an agent does with a browser, and what it gets to read."""

from __future__ import annotations

import http.client
import json
import re
import time
from typing import TYPE_CHECKING, Any

from tests.unit.server.browser.conftest import SECONDS

if TYPE_CHECKING:
    from tests.unit.server.browser.conftest import Tester


def act(server: Tester, kind: str, timeout: float = SECONDS, **args: Any) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS * 2)
    body = {"action": {"action": kind, "args": args, "timeout": timeout}}
    connection.request("POST", "/execute_action", json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return answer


def do(server: Tester, actions: str, *, once: bool = False, **more: Any) -> Any:
    """Do it, and again while an element was not ready: on a busy machine it may not stand still within the
    half second that it has. ``once``: not if it was acted on all the same.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        answer = act(server, "browse_interactive", browser_actions=actions, **more)
        said = answer["extras"].get("last_browser_action_error", "")
        late = "Timeout 500ms exceeded" in said and "does not answer" not in said
        if not late or (once and "performing click action" in said) or time.monotonic() > deadline:
            return answer


def error(answer: Any) -> str:
    """Of a browse observation; a download has none."""
    if answer["observation"] == "download":
        return ""
    assert answer["extras"]["error"] == bool(answer["extras"]["last_browser_action_error"])
    found: str = answer["extras"]["last_browser_action_error"]
    return found


def bid(answer: Any, line: str) -> str:
    found = re.search(rf"\[(\w+)\] {line}", answer["content"])
    assert found, answer["content"]
    return found.group(1)

"""What an agent does with a browser, and what it gets to read."""

from __future__ import annotations

import http.client
import json
import re
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


def do(server: Tester, actions: str, **more: Any) -> Any:
    return act(server, "browse_interactive", browser_actions=actions, **more)


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

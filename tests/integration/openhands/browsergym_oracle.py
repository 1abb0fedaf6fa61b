"""Runs in the environment of install.sh: actions done by browsergym-core itself, with what it observes.

From standard input a JSON list of action strings, from the command line Chromium's path; to standard output a
JSON list of observations. Set up as openhands.runtime.browser.browser_env does it, but without the second of
waiting before each call.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import browsergym.core.env as env_module
import gymnasium
import html2text
from browsergym.utils.obs import flatten_axtree_to_str, flatten_dom_to_str, overlay_som


class Chat:
    """Without the window that nobody looks at."""

    def __init__(self, *_: object, **__: object) -> None:
        self.messages: list[dict[str, Any]] = []

    def add_message(self, role: str, msg: str) -> None:
        self.messages.append({"role": role, "message": msg, "timestamp": 0.0})

    def close(self) -> None:
        pass


def text_of(dom: Any) -> Any:
    converter = html2text.HTML2Text()
    converter.ignore_links = False
    converter.ignore_images = True
    converter.images_to_alt = True
    converter.body_width = 0
    return converter.handle(flatten_dom_to_str(dom))


def digest(pixels: Any) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def main() -> None:
    env_module.Chat = Chat
    env = gymnasium.make(
        "browsergym/openended",
        task_kwargs={"start_url": "about:blank", "goal": "PLACEHOLDER_GOAL"},
        wait_for_user_message=False,
        headless=True,
        disable_env_checker=True,
        tags_to_mark="all",
        timeout=100000,
        slow_mo=0,
        pw_context_kwargs={"accept_downloads": True},
        pw_chromium_kwargs={"executable_path": sys.argv[1]},
    )
    env.reset()
    results = []
    for action in json.load(sys.stdin):
        seen = env.step(action)[0]
        results.append(
            {
                "action": action,
                "url": seen["url"],
                "urls": list(seen["open_pages_urls"]),
                "active": seen["active_page_index"].item(),
                "focused": seen["focused_element_bid"],
                "error": seen["last_action_error"],
                "tree": flatten_axtree_to_str(
                    seen["axtree_object"],
                    extra_properties=seen["extra_element_properties"],
                    with_clickable=True,
                    skip_generic=False,
                ),
                "properties": seen["extra_element_properties"],
                "text": text_of(seen["dom_object"]),
                "picture": digest(seen["screenshot"]),
                "marked": digest(overlay_som(seen["screenshot"], seen["extra_element_properties"])),
            }
        )
    env.close()
    json.dump(results, sys.stdout)


main()

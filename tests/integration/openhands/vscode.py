"""Opens VS Code by the classes of openhands-ai; run by the interpreter of its own environment.

``vscode.py connect URL KEY FOLDER`` asks for the token by its ActionExecutionClient, ``vscode.py docker IMAGE
USER`` for the address by its DockerRuntime, unmodified, on a runtime image, and opens it as a browser does.
One line of JSON goes to standard output.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from client import Connected, DockerRuntime, configuration
from openhands.runtime.plugins import VSCodeRequirement

SECONDS = 120


def main(kind: str, *words: str) -> None:
    folder = words[2] if kind == "connect" else "/workspace"
    parts = configuration(folder)
    parts["plugins"].append(VSCodeRequirement())
    if kind == "connect":
        runtime: Any = Connected(words[0], words[1], **parts)
    else:
        image, user = words
        parts["config"].sandbox.runtime_container_image = image
        parts["config"].run_as_openhands = user == "openhands"
        runtime = DockerRuntime(**parts)
    try:
        asyncio.run(runtime.connect())
        found = {"token": runtime.get_vscode_token()}
        if kind == "docker":
            found |= {"url": runtime.vscode_url, "page": opened(runtime.vscode_url)}
        print(json.dumps(found), flush=True)
    finally:
        runtime.close()


def opened(url: str) -> str:
    """The page at ``url``, with the cookies and redirects that a browser follows."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    opener.addheaders = [("Accept", "text/html")]
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with opener.open(url, timeout=SECONDS) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            # Says when to come again while it starts.
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(float(error.headers.get("Retry-After", 1)))


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Threads of theirs would keep the process for a while.
    sys.stdout.flush()
    os._exit(0)

#!/usr/bin/env python3
"""In the place of VS Code's server: takes its options, says its line, answers with what it was given."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from graftbox.server.host import Host


async def answer(scope: Any, receive: Any, send: Any) -> None:
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    target = scope["raw_path"].decode() + "?" + scope["query_string"].decode()
    given = {
        "argv": sys.argv[1:],
        "target": target,
        "headers": headers,
        "pid": os.getpid(),
    }
    body = json.dumps({**given, "environment": dict(os.environ)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def main() -> None:
    path = sys.argv[sys.argv.index("--socket-path") + 1]
    await Host(answer).listen("", None, path)
    print(f"Extension host agent listening on {path}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

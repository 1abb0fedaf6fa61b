"""A plugin's program: an HTTP server on the Unix socket that its first argument names, or on a free port of
an address, as tcp:127.0.0.1.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

from graftbox.server.host import Host


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["path"] == "/big":
        await stream(send, [b"x" * 1024 * 1024] * 64, 0)
    elif scope["path"] == "/drip":
        await stream(send, [b"%d\n" % number for number in range(10_000)], 0.01)
    else:
        status, headers, body = await short(scope, receive)
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def short(scope: Any, receive: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    match scope["path"]:
        case "/count":
            size, more = 0, True
            while more:
                message = await receive()
                size, more = size + len(message["body"]), message["more_body"]
            return 200, [], str(size).encode()
        case "/moved":
            return 302, [(b"location", b"/there?x=1"), (b"set-cookie", b"a=1; Path=/; HttpOnly")], b""
        case "/absolute":
            host = dict(scope["headers"])[b"host"]
            return 302, [(b"location", b"http://" + host + b"/there?x=1")], b""
        case "/worker":
            return 200, [(b"service-worker-allowed", b"/"), (b"x-kept", b"1")], b""
        case "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "/daemon":
            words = ["/bin/sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"]
            return 200, [], subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    given = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    target = scope["raw_path"].decode() + "?" + scope["query_string"].decode()
    return 200, [], json.dumps({"method": scope["method"], "target": target, "headers": given}).encode()


async def stream(send: Any, pieces: list[bytes], pause: float) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(pause)
    await send({"type": "http.response.body", "body": b""})


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def main() -> None:
    host = Host(answer, lambda path: path == "/ws")
    address, tcp = sys.argv[1].removeprefix("tcp:"), sys.argv[1].startswith("tcp:")
    await host.listen(address, 0 if tcp else None, None if tcp else address)
    print("listening now", os.getpid(), *((host.port,) if tcp else ()), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

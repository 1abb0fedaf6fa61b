"""A mirror's manifests: the first time, when one is grafted, and afterwards."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import Figure, timed

CONNECTIONS, REQUESTS, ROUNDS, COLD = 8, 1000, 5, 20


def figures(registry: str, base: Path) -> list[Figure]:
    """Times per manifest, with the mirror in a process of its own and its clients in this one.

    ``registry`` is ``host:port`` of a local registry; ``base`` an image in an OCI layout (``DIR:TAG``).
    """
    number = itertools.count()

    def pushed() -> str:
        name = f"mirrored/{next(number)}-{time.time_ns()}"
        target = f"docker://{registry}/{name}:1"
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{base}", target], check=True)
        return name

    names = [pushed() for _ in range(COLD)]
    command = [sys.executable, "-c", "from graftbox.cli.app import main; main()", "mirror", "--json"]
    options = ["--listen", "127.0.0.1:0", "--upstream", f"local=http://{registry}", "--tag-lifetime", "600"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
            urls = [f"/v2/local/{name}/manifests/1" for name in names]
            asyncio.run(_ask(port, urls[0], 1))
            cold = [timed(lambda url=url: asyncio.run(_ask(port, url, 1))) for url in urls[1:]]  # type: ignore[misc]  # a loop's variable
            warm = [_round(port, urls[0]) for _ in range(ROUNDS)]
        finally:
            process.terminate()
    return [
        Figure(
            "first manifest of a tag through the mirror (the graft)", "ms", tuple(1000 * t for t in cold), 50
        ),
        Figure(
            f"its manifest again, over {CONNECTIONS} connections (500 µs are 2,000 a second)",
            "µs",
            tuple(1e6 * t for t in warm),
            500,
        ),
    ]


def _round(port: int, url: str) -> float:
    """Seconds per request."""

    async def all_of_them() -> None:
        await asyncio.gather(*(_ask(port, url, REQUESTS) for _ in range(CONNECTIONS)))

    return timed(lambda: asyncio.run(all_of_them())) / (CONNECTIONS * REQUESTS)


async def _ask(port: int, url: str, times: int) -> None:
    """One connection that asks for the same again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n"
    for _ in range(times):
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r")[0]))
    writer.close()
    await writer.wait_closed()

"""``graftbox forward``: a port of this machine for a sandbox that has no network."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

import click

from graftbox.cli.status import say
from graftbox.errors import NotFoundError
from graftbox.store import Store


@click.command()
@click.argument("name")
@click.option("-p", "--port", type=click.IntRange(0, 65535), default=0, help="The port [any free one].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def forward(name: str, port: int, as_json: bool) -> None:
    """Make a sandbox's server reachable at a loopback port, until Ctrl-C.

    For browsers and clients that can't use a Unix socket, which is how sandboxes without network are reached.
    The address of any other sandbox is only printed.
    """
    from graftbox.cli import engines
    from graftbox.sandbox.engines import owner

    sandbox = owner(engines.every(Store()), name).find(name)
    if sandbox is None or not sandbox.url:
        raise NotFoundError(f"The sandbox {name!r} does not run; start one with `graftbox run`.")

    def tell(url: str) -> None:
        click.echo(json.dumps({"name": name, "url": url, "key": sandbox.key}) if as_json else url)

    if not sandbox.url.startswith("unix://"):
        tell(sandbox.url)
        return
    asyncio.run(_forward(Path(sandbox.url.removeprefix("unix://")), port, tell))


async def _forward(path: Path, port: int, tell: Callable[[str], None]) -> None:
    from graftbox.sandbox.forward import forwarding

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with forwarding(path, port) as chosen:
        tell(f"http://127.0.0.1:{chosen}")
        say("Ctrl-C ends the forwarding")
        await ended.wait()

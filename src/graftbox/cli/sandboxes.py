"""``graftbox ps``, ``stop``, ``start``, ``rm`` and ``logs``: sandboxes of all engines, by name."""

from __future__ import annotations

import json
import sys

import click

from graftbox.cli.options import Amount
from graftbox.store import Store


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ps(as_json: bool) -> None:
    """List the sandboxes of all engines, running or not."""
    from graftbox.cli import engines

    found = [sandbox for engine in engines.every(Store()) for sandbox in engine.sandboxes()]
    if as_json:
        rows = [{**sandbox.public(), "status": sandbox.status} for sandbox in found]
        print(json.dumps({"sandboxes": rows}))
        return
    titles = ("NAME", "ENGINE", "STATUS", "URL", "IMAGE")
    table = [titles, *((s.name, s.engine, s.status, s.url or "-", s.image) for s in found)]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles) - 1)]
    for row in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "-t", "--time", "grace", type=click.IntRange(min=0), default=10, help="Seconds before it is killed [10]."
)
def stop(names: tuple[str, ...], grace: int) -> None:
    """End sandboxes; their files and logs stay, for `graftbox start`, until `graftbox rm`."""
    from graftbox.cli import engines
    from graftbox.sandbox.engines import owner

    known = engines.every(Store())
    for name in names:
        owner(known, name).stop(name, grace)
        print(name)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--start-timeout", type=Amount(), default=60, help="Seconds until alive [60].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def start(names: tuple[str, ...], start_timeout: float, as_json: bool) -> None:
    """Start stopped sandboxes again, with the files and the key that they had. The port may be a new one."""
    from graftbox.cli import engines
    from graftbox.cli.run import announce, wait_until_alive
    from graftbox.sandbox.engines import owner

    known = engines.every(Store())
    for name in names:
        engine = owner(known, name)
        sandbox = engine.start_again(name)
        wait_until_alive(engine, sandbox, start_timeout)
        announce(sandbox, as_json)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-f", "--force", is_flag=True, help="Running ones too.")
def rm(names: tuple[str, ...], force: bool) -> None:
    """Delete sandboxes with all that was written in them."""
    from graftbox.cli import engines
    from graftbox.sandbox.engines import owner

    known = engines.every(Store())
    for name in names:
        owner(known, name).remove(name, force=force)
        print(name)


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the sandbox ends.")
def logs(name: str, follow: bool) -> None:
    """Print what a sandbox's server wrote."""
    from graftbox.cli import engines
    from graftbox.sandbox.engines import owner

    for piece in owner(engines.every(Store()), name).logs(name, follow=follow):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

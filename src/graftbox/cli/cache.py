"""``graftbox cache``: what is kept on this machine, and its removal."""

from __future__ import annotations

import dataclasses
import json
import time

import click

from graftbox.cli.options import Amount
from graftbox.cli.status import say

DAY = 24 * 60 * 60
MEGA = 1e6


@click.group()
def cache() -> None:
    """See and shrink what graftbox keeps on this machine; all of it can be fetched or made again."""


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(as_json: bool) -> None:
    """Say where the cache is and what it holds."""
    from graftbox.leftovers import kinds
    from graftbox.store import Store

    store = Store()
    found = kinds(store)
    if as_json:
        rows = [dataclasses.asdict(kind) for kind in found]
        click.echo(json.dumps({"folder": str(store.root), "kinds": rows}))
        return
    click.echo(f"{store.root}")
    for kind in found:
        click.echo(f"{kind.name:16} {kind.entries:7} {kind.size / MEGA:10.1f} MB")


@cache.command()
@click.option(
    "--unused-for",
    "days",
    type=Amount(),
    default=30,
    metavar="DAYS",
    help="Days without use [30].",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def prune(days: float, dry_run: bool, as_json: bool) -> None:
    """Remove what nothing has used for a while. What a sandbox has mounted is kept."""
    from graftbox.leftovers import remove, unused
    from graftbox.store import Store

    store = Store()
    found = unused(store, time.time() - days * DAY)
    for leftover in found:
        if not dry_run:
            remove(store, leftover)
        name = str(leftover.path.relative_to(store.root))
        if as_json:
            facts = {"kind": leftover.kind, "path": name, "size": leftover.size, "removed": not dry_run}
            click.echo(json.dumps(facts))
        else:
            click.echo(f"{'would remove' if dry_run else 'removed'}  {name}  {leftover.size / MEGA:.1f} MB")
    size = sum(leftover.size for leftover in found) / MEGA
    say(f"{len(found)} entries, {size:.1f} MB {'would be ' if dry_run else ''}removed.")
    if not dry_run:
        store.sweep()

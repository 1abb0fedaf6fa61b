"""``graftbox bundle show --tree`` and ``--html``: where a bundle's bytes are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graftbox.cli.bundle import MEGA, print_table, shown

if TYPE_CHECKING:
    from graftbox.bundle.manifest import BundleManifest
    from graftbox.store import Store

LEAST = MEGA // 10
"""What is smaller than this many bytes is summed up in the tree for people."""


def show_bytes(
    made: BundleManifest | None,
    store: Store,
    tree: bool,
    packages: bool,
    depth: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Prints the tree, writes the treemap, or both."""
    from graftbox.bundle import inventory
    from graftbox.errors import NotFoundError, StorageError

    if made is None:
        raise NotFoundError(
            "This bundle is not built yet. Run `graftbox bundle build` with the same options."
        )
    if html is not None:
        try:
            html.write_bytes(inventory.page(made, store))
        except OSError as error:
            raise StorageError(f"Cannot write {html}: {error.strerror}. Name another file.") from error
        click.echo(f"graftbox: wrote {html}", err=True)
    if not tree:
        return
    root = inventory.tree(inventory.rows(made, store), "/openhands", packages)
    if as_json:
        facts = {"digest": made.digest, "arch": made.arch, "tree": root.facts(depth)}
        click.echo(json.dumps(facts))
        return
    rows = [
        (name, shown(branch.compressed), shown(branch.size), str(branch.files))
        for name, branch in inventory.lines(root, depth, LEAST)
    ]
    print_table([("where", "compressed", "unpacked", "files"), *rows])
    click.echo("Compressed sizes of single files are estimates: their shares of their layer.")

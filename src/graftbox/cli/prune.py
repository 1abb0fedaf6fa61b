"""``graftbox prune``: removes runtime images that no longer match."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from graftbox.cli.registries import registry_options
from graftbox.cli.status import say

if TYPE_CHECKING:
    from graftbox.image.transports import Access


@click.command()
@click.option("--repo", required=True, metavar="REPO", help="The repository that graft --to-repo wrote to.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def prune(repo: str, dry_run: bool, access: Access, as_json: bool) -> None:
    """Remove the runtime images in REPO that another release, lock or server made.

    Only images under tags of graftbox are looked at, and judged by the labels that graft wrote. One that
    has a tag of somebody else too is kept. The registry frees the space when it collects garbage.
    """
    from graftbox import __version__
    from graftbox.image import prune as images
    from graftbox.image.tags import repository

    target = repository(repo)
    gone = kept = 0
    orphaned: dict[str, None] = {}
    needed: set[str] = set()
    with access.shared(parallel=8) as registries:
        for found in images.find(registries, target, __version__, current_bundle):
            if found.stale and not dry_run:
                images.remove(registries, target, found)
            gone, kept = gone + found.stale, kept + (not found.stale)
            if found.stale:
                orphaned |= dict.fromkeys(found.subjects)
            else:
                needed |= set(found.subjects)
            if as_json:
                click.echo(images.line(found))
                continue
            verb = "keep" if not found.stale else "would remove" if dry_run else "removed"
            click.echo(f"{verb}  {found.digest[:19]}  {found.why}")
            for tag in found.tags:
                click.echo(f"        {tag}")
        attached = 0
        if not dry_run:
            attached = images.remove_attached(
                registries, target, [one for one in orphaned if one not in needed]
            )
    also = f", and {attached} things that were attached to them" if attached else ""
    say(f"{gone} images {'would be removed' if dry_run else 'removed'}{also}, {kept} kept.")


@functools.lru_cache
def _current(components: tuple[str, ...], arch: str, form: str, flavor: str, merged: bool) -> str | None:
    from graftbox.bundle import build
    from graftbox.errors import GraftboxError
    from graftbox.image.graft import MERGED

    # Not known to this version: a component, an architecture, or zstd without its library.
    with contextlib.suppress(GraftboxError):
        if found := build.current(arch, components, compression=form, flavor=flavor, merged=merged):
            return found.digest
        # One with so few layers that there is nothing to merge.
        found = build.current(arch, components, compression=form, flavor=flavor) if merged else None
        if found and len(found.layers) <= MERGED:
            return found.digest
    return None


def current_bundle(components: Sequence[str], arch: str, form: str, flavor: str, merged: bool) -> str | None:
    """The digest of the bundle that `graft` would use now for layers of this form, if it is built."""
    return _current(tuple(components), arch, form, flavor, merged)

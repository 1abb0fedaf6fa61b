"""``graftbox tags``: which tags a runtime image has, and why."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from graftbox.cli.options import (
    checked_user,
    component_option,
    compression_option,
    flavor_option,
    merge_option,
)
from graftbox.cli.registries import registry_options

if TYPE_CHECKING:
    from graftbox.image.transports import Access

MEANINGS = {
    "source": "exactly this code",
    "lock": "these dependencies on this base",
    "versioned": "this release on this base",
}


@click.command()
@click.argument("base")
@click.option("--to-repo", metavar="REPO", help="Also say which of them are in this repository.")
@component_option
@compression_option
@flavor_option
@merge_option
@click.option("--user", callback=checked_user, help="As for graft.")
@click.option("--keep-entrypoint", is_flag=True, help="As for graft.")
@click.option("--platform", help="As for graft.")
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tags(
    base: str,
    to_repo: str | None,
    components: tuple[str, ...],
    compression: str,
    flavor: str,
    merge: bool,
    user: str | None,
    keep_entrypoint: bool,
    platform: str | None,
    access: Access,
    as_json: bool,
) -> None:
    """Print the tags that graft --to-repo gives the runtime image of BASE, and what each is made from."""
    from graftbox.cli.graft import bundles
    from graftbox.image.reference import parse
    from graftbox.image.registry_target import RegistryTarget
    from graftbox.image.reuse import base_digest
    from graftbox.image.tags import Choice, repository, tags_of
    from graftbox.store import Store

    store, reference = Store(), parse(base)
    target = repository(to_repo) if to_repo else None
    with access.shared(parallel=1) as registries:
        access = replace(access, registries=registries)
        chosen = bundles(components, platform, store, compression, flavor, merge=merge)
        choice = Choice(chosen, user, keep_entrypoint, platform)
        found = tags_of(reference, base_digest(reference, store, access), choice)
        named = {kind: getattr(found, kind) for kind in MEANINGS}
        there: dict[str, str | None] = {}
        if target is not None:
            registry = RegistryTarget(target, (), store, access.insecure, registries)
            there = {kind: registry.head(tag) for kind, tag in named.items()}
    if as_json:
        facts: dict[str, object] = {**named, "inputs": [asdict(item) for item in found.inputs]}
        if target is not None:
            facts |= {"repository": f"{target.host}/{target.repository}", "digests": there}
        click.echo(json.dumps(facts))
        return
    width = max(map(len, named.values()))
    for kind, tag in named.items():
        state = f"  {there[kind] or 'not there'}" if target is not None else ""
        click.echo(f"{tag.ljust(width)}  {kind}: {MEANINGS[kind]}{state}")
    click.echo()
    for item in found.inputs:
        click.echo(f"{item.name:<13}  decides {', '.join(item.decides):<23}  {item.value}")

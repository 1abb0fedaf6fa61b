"""``graftbox lock``: resolves a recipe to exact packages and wheels."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graftbox.cli.options import source_options
from graftbox.errors import NotFoundError, StorageError, VerificationError

if TYPE_CHECKING:
    from graftbox.bundle.lock import Lock
    from graftbox.bundle.recipe import Recipe
    from graftbox.bundle.sources import Sources


@click.command()
@click.argument("recipe", default="openhands")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where to write it (default: next to the recipe)."
)
@click.option("--update-missing", is_flag=True, help="Replace only packages that mirrors have dropped.")
@click.option("--check", is_flag=True, help="Only say whether the lock fits the recipe.")
@click.option("--allow-expired", is_flag=True, help="Accept an archive's Release file past its date.")
@source_options
@click.option(
    "--keyring", type=click.Path(path_type=Path), help="Keys that may sign (default: the recipe's)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def lock(
    recipe: str,
    output: Path | None,
    update_missing: bool,
    check: bool,
    allow_expired: bool,
    sources: Sources,
    keyring: Path | None,
    as_json: bool,
) -> None:
    """Write down exactly which packages a bundle is made of.

    Resolves RECIPE (openhands, tools, or a TOML file; openhands by default) to a lock file with the version
    and hash of every Debian package and wheel. `graftbox bundle build` fetches just these.
    """
    from graftbox.bundle import locking
    from graftbox.bundle.lock import Lock
    from graftbox.bundle.recipe import Recipe
    from graftbox.cli.status import Status
    from graftbox.store import Store, file_place

    parsed = Recipe.find(recipe)
    target = file_place(output) if output else Lock.place(parsed)
    if not check and not os.access(target.parent, os.W_OK):
        raise StorageError(f"{target} cannot be written; name a file in a folder that you own with --output.")
    if check:
        _check(parsed, Lock.read(target, parsed.lock_command), target, recipe)
        return
    workshop = locking.Workshop(Store(), sources, Status(), keyring=keyring, allow_expired=allow_expired)
    existing = next((path for path in (target, Lock.place(parsed)) if path.is_file()), None)
    old = Lock.read(existing, parsed.lock_command) if existing else None
    if update_missing and old is None:
        raise NotFoundError(f"There is no lock {target} to update. Make it with `graftbox lock {recipe}`.")
    new = (
        locking.update_missing(parsed, old, workshop)
        if update_missing and old
        else locking.make(parsed, workshop)
    )
    found = locking.changes(old, new)
    if update_missing and old and not found and new.recipe == old.recipe:
        new = old  # dates of suites alone are no reason to touch it
    new.write(target)
    _report(target, [str(change) for change in found] if old else [], new, as_json, known=old is not None)


def _check(parsed: Recipe, current: Lock, target: Path, recipe: str) -> None:
    if current.recipe != parsed.resolution_digest:
        raise VerificationError(
            f"The lock {target} was made from another version of the recipe. Run `graftbox lock {recipe}`."
        )
    click.echo(f"{target} fits its recipe.")


def _report(target: Path, changes: list[str], new: Lock, as_json: bool, *, known: bool) -> None:
    counts = {
        arch: {
            "packages": len(locked.packages),
            "wheels": len(locked.wheels),
            **({"npm packages": len(locked.modules)} if locked.modules else {}),
        }
        for arch, locked in new.architectures.items()
    }
    if as_json:
        document = {"lock": str(target), "digest": new.digest, "architectures": counts, "changes": changes}
        click.echo(json.dumps(document))
        return
    for line in changes:
        click.echo(line)
    summary = ", ".join(
        f"{arch}: {', '.join(f'{number} {kind}' for kind, number in one.items())}"
        for arch, one in counts.items()
    )
    what = f"{len(changes) or 'no'} change{'s' * (len(changes) != 1)}" if known else "new"
    click.echo(f"{target} ({summary}): {what}")

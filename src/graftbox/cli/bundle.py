"""``graftbox bundle``: builds, shows and verifies the folder /openhands."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.bundle.manifest import BundleManifest
    from graftbox.bundle.sources import Sources

F = TypeVar("F", bound=Callable[..., Any])
MEGA = 1_000_000


def choice(function: F) -> F:
    """The options that say which bundle is meant."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option(
            "--recipe", default="openhands", show_default=True, help="A built-in recipe or a TOML file."
        ),
        click.option("--arch", type=click.Choice(["amd64", "arm64"]), help="Default: this machine's."),
        click.option("--component", "components", multiple=True, default=("core",), show_default=True),
    ):
        function = option(function)
    return function


@click.group()
def bundle() -> None:
    """Build, show and verify the folder /openhands."""


@bundle.command()
@choice
@click.option("--debian-mirror", metavar="URL", help="Debian's archive (default: this machine's apt).")
@click.option("--security-mirror", metavar="URL", help="Debian's security archive (default: apt's).")
@click.option("--snapshot", metavar="URL", help="A snapshot archive, for versions that mirrors have dropped.")
@click.option("--index-url", metavar="URL", help="The Python package index (default: pip's or uv's).")
def build(
    components: tuple[str, ...],
    arch: str | None,
    recipe: str,
    as_json: bool,
    debian_mirror: str | None,
    security_mirror: str | None,
    snapshot: str | None,
    index_url: str | None,
) -> None:
    """Fetch, verify, stage and pack the bundle, as far as that is not done yet."""
    from graftbox.bundle.sources import Sources

    started = time.monotonic()
    sources = Sources.find(
        debian_mirror=debian_mirror,
        security_mirror=security_mirror,
        snapshot=snapshot,
        index_url=index_url,
    )
    made = _built(components, arch, recipe, Store(), sources)
    seconds = time.monotonic() - started
    if as_json:
        click.echo(
            json.dumps({"digest": made.digest, "seconds": round(seconds, 3), "components": _layers(made)})
        )
        return
    _print_layers(made)
    click.echo(f"{made.digest} ({made.arch}) in {seconds:.1f} s")


@bundle.command()
@choice
def show(components: tuple[str, ...], arch: str | None, recipe: str, as_json: bool) -> None:
    """Print components, sizes and packages."""
    from graftbox.bundle.build import Job

    job = Job.of(_recipe(recipe), arch, components, Store())
    made = job.found()
    entries = job.lock.entries(job.arch, job.components)
    packages = [
        {"name": entry.name, "version": entry.version, "file": entry.filename, "size": entry.size}
        for entry in entries
    ]
    if as_json:
        facts = {
            "arch": job.arch,
            "lock": job.lock.digest,
            "digest": made.digest if made else None,
            "components": _layers(made) if made else [],
            "packages": packages,
        }
        click.echo(json.dumps(facts))
        return
    if made:
        _print_layers(made)
        click.echo(made.digest)
    else:
        click.echo("Not built yet: graftbox bundle build")
    click.echo(f"\n{len(packages)} packages, {sum(entry.size for entry in entries) / MEGA:.1f} MB to fetch:")
    for package in packages:
        click.echo(f"  {package['name']} {package['version']}")


@bundle.command()
@choice
def verify(components: tuple[str, ...], arch: str | None, recipe: str, as_json: bool) -> None:
    """Check every digest, and that every program stays inside the bundle."""
    from graftbox.bundle.verify import verify as check

    store = Store()
    made = _existing(components, arch, recipe, store)
    report = dataclasses.asdict(check(made, store))
    if as_json:
        click.echo(json.dumps({"digest": made.digest, "ok": True, **report}))
    else:
        facts = ", ".join(f"{count} {what}" for what, count in report.items())
        click.echo(f"{made.digest} ({made.arch}) is whole and self-contained: {facts}.")


@bundle.command()
@choice
def path(components: tuple[str, ...], arch: str | None, recipe: str, as_json: bool) -> None:
    """Print the folder that holds the unpacked /openhands, building it if need be."""
    from graftbox.bundle.tree import unpacked

    store = Store()
    folder: Path = unpacked(_built(components, arch, recipe, store, None), store) / "openhands"
    click.echo(json.dumps({"path": str(folder)}) if as_json else str(folder))


def _recipe(name: str) -> Any:
    from graftbox.bundle.recipe import Recipe

    return Recipe.find(name)


def _built(
    components: tuple[str, ...], arch: str | None, recipe: str, store: Store, sources: Sources | None
) -> BundleManifest:
    from graftbox.bundle.build import build as make
    from graftbox.cli.status import Status

    return make(_recipe(recipe), arch, components, store, Status(), sources=sources)


def _existing(components: tuple[str, ...], arch: str | None, recipe: str, store: Store) -> BundleManifest:
    from graftbox.bundle.build import current
    from graftbox.errors import NotFoundError

    made = current(arch, components, store, _recipe(recipe))
    if made is None:
        raise NotFoundError(
            "This bundle is not built yet. Run `graftbox bundle build` with the same options."
        )
    return made


def _layers(made: BundleManifest) -> list[dict[str, Any]]:
    return [dataclasses.asdict(layer) for layer in made.layers]


def _print_layers(made: BundleManifest) -> None:
    for layer in made.layers:
        sizes = f"{layer.size / MEGA:7.1f} MB, {layer.compressed_size / MEGA:6.1f} MB compressed"
        click.echo(f"{layer.name:10} {sizes}, {layer.files:5} files  {layer.digest}")

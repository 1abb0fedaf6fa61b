"""``graftbox bundle``: builds, shows and verifies the folder /openhands."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from graftbox.cli.options import (
    checked_tags,
    component_option,
    compression_option,
    flavor_option,
    merge_option,
    source_options,
)
from graftbox.cli.registries import registry_options
from graftbox.store import Store

if TYPE_CHECKING:
    from graftbox.bundle.build import Job
    from graftbox.bundle.manifest import BundleManifest, Layer
    from graftbox.bundle.sources import Sources
    from graftbox.image.transports import Access

F = TypeVar("F", bound=Callable[..., Any])
MEGA = 1_000_000
NUMBERS = ("compressed", "unpacked", "files", "size")


@dataclass(frozen=True)
class Chosen:
    """The bundle that the options mean; ``arch`` None is this machine's, no components are all of them."""

    components: tuple[str, ...]
    arch: str | None
    recipe: str
    compression: str
    flavor: str
    merged: bool = False

    def job(self, store: Store) -> Job:
        from graftbox.bundle.build import job_class
        from graftbox.bundle.recipe import Recipe

        job = job_class(self.flavor)
        return job.of(
            Recipe.find(self.recipe),
            self.arch,
            self.components,
            store,
            compression=self.compression,
            merged=self.merged,
        )

    def built(self, store: Store, sources: Sources | None = None) -> BundleManifest:
        """Made now if it is not there yet."""
        from graftbox.bundle.build import build as make
        from graftbox.bundle.recipe import Recipe
        from graftbox.cli.status import Status

        return make(
            Recipe.find(self.recipe),
            self.arch,
            self.components,
            store,
            Status(),
            sources=sources,
            compression=self.compression,
            flavor=self.flavor,
            merged=self.merged,
        )


def choice(function: F) -> F:
    """The options that say which bundle is meant, which the command gets as ``chosen``, and ``--json``."""

    @functools.wraps(function)
    def wrapped(
        *arguments: Any,
        components: tuple[str, ...],
        arch: str | None,
        recipe: str,
        compression: str,
        flavor: str,
        merge: bool,
        **options: Any,
    ) -> Any:
        chosen = Chosen(components, arch, recipe, compression, flavor, merge)
        return function(*arguments, chosen=chosen, **options)

    command: Any = wrapped
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option(
            "--recipe",
            metavar="NAME|FILE",
            default="openhands",
            show_default=True,
            help="A built-in recipe or a TOML file.",
        ),
        click.option("--arch", type=click.Choice(["amd64", "arm64"]), help="Default: this machine's."),
        compression_option,
        flavor_option,
        merge_option,
        component_option,
    ):
        command = option(command)
    return command  # type: ignore[no-any-return]  # click's decorators keep no signatures


@click.group()
def bundle() -> None:
    """Build, show and verify the bundle: the folder /openhands that makes an image a sandbox."""


@bundle.command()
@choice
@source_options
@click.option(
    "--from-dist",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="With --flavor pyinstaller: a folder that PyInstaller has made, instead of making one.",
)
def build(
    chosen: Chosen,
    as_json: bool,
    sources: Sources,
    from_dist: Path | None,
) -> None:
    """Build the bundle, as far as that is not done yet.

    Fetches the locked packages, checks their hashes, stages and relocates their files, and packs them as
    layers into the cache folder ($GRAFTBOX_CACHE). Needs no root, no Docker, and runs nothing of the target.
    """
    started = time.monotonic()
    if from_dist is not None:
        _adopt(from_dist, chosen.job(Store()), sources)
    made = chosen.built(Store(), sources)
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
@click.option("--tree", is_flag=True, help="Where the bytes are: layers and the folders in them.")
@click.option("--by", type=click.Choice(["folder", "package"]), default="folder", help="What --tree shows.")
@click.option(
    "--depth", type=click.IntRange(0), default=3, show_default=True, help="How many levels --tree has."
)
@click.option("--html", type=click.Path(path_type=Path), help="Write a treemap, one HTML file, there.")
def show(
    chosen: Chosen,
    as_json: bool,
    tree: bool,
    by: str,
    depth: int,
    html: Path | None,
) -> None:
    """Print layers, sizes and packages; or where the bytes are."""
    job = chosen.job(Store())
    made = job.found()
    if tree or html:
        from graftbox.cli.inventory import show_bytes

        show_bytes(made, job.store, tree, by == "package", depth, html, as_json)
        return
    entries = job.lock.entries(job.arch, (*job.components, job.flavor))
    packages = [
        {"name": entry.name, "version": entry.version, "file": entry.filename, "size": entry.size}
        for entry in entries
    ]
    if as_json:
        facts = {
            "arch": job.arch,
            "compression": job.compression,
            "flavor": job.flavor,
            "lock": job.lock.digest,
            "digest": made.digest if made else None,
            "components": _layers(made) if made else [],
            "packages": packages,
        }
        click.echo(json.dumps(facts))
        return
    if made:
        _print_layers(made)
        click.echo(f"bundle {made.digest} ({made.arch}, {job.flavor}, {job.compression} layers)")
    else:
        click.echo(
            f"The {job.arch} bundle is not built yet. Run `graftbox bundle build` with the same options."
        )
    click.echo(f"lock   {job.lock.digest}\n")
    rows = [(entry.name, entry.version, shown(entry.size)) for entry in entries]
    total = shown(sum(entry.size for entry in entries))
    print_table([("package", "version", "size"), *rows, (f"{len(rows)} packages", "", total)])


@bundle.command()
@choice
def verify(chosen: Chosen, as_json: bool) -> None:
    """Check all digests, and that no program leaves the bundle."""
    from graftbox.bundle.verify import verify as check
    from graftbox.errors import NotFoundError

    store = Store()
    made = chosen.job(store).recorded()
    if made is None:
        raise NotFoundError(
            "This bundle is not built yet. Run `graftbox bundle build` with the same options."
        )
    report = dataclasses.asdict(check(made, store))
    found = report.pop("problems")
    if as_json:
        click.echo(json.dumps({"digest": made.digest, "ok": not found, **report, "problems": found}))
    else:
        for problem in found:
            click.echo(problem)
        facts = ", ".join(f"{count} {what}" for what, count in report.items())
        verdict = (
            f"has {len(found)} problem{'s' * (len(found) > 1)}" if found else "is whole and self-contained"
        )
        click.echo(f"The {made.arch} bundle {made.digest} {verdict} ({facts}).")
    sys.exit(1 if found else 0)


@bundle.command()
@choice
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write it there instead.")
def sbom(
    chosen: Chosen,
    as_json: bool,
    output: Path | None,
) -> None:
    """Print the packages that the bundle consists of, as CycloneDX JSON.

    With versions, hashes, licences and the files that hold their texts, and the source packages of Debian's.
    """
    from graftbox.cli.sbom import print_sbom

    print_sbom(chosen.job(Store()), output)


@bundle.command()
@click.argument("target", metavar="REF")
@click.option(
    "--arch",
    "archs",
    type=click.Choice(["amd64", "arm64"]),
    multiple=True,
    help="May be repeated (default: this machine's, and those that are built).",
)
@component_option
@click.option("--recipe", metavar="NAME|FILE", default="openhands", show_default=True, help="As for build.")
@compression_option
@flavor_option
@merge_option
@click.option(
    "--tag",
    "tags",
    multiple=True,
    callback=checked_tags,
    help="A further tag for the image; may be repeated.",
)
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def push(
    target: str,
    archs: tuple[str, ...],
    components: tuple[str, ...],
    recipe: str,
    compression: str,
    flavor: str,
    merge: bool,
    tags: tuple[str, ...],
    access: Access,
    as_json: bool,
) -> None:
    """Store the bundle as an image of its own, with /openhands and nothing else in it.

    REF is docker://NAME (the default), docker-daemon:NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or
    docker-archive:FILE[:NAME]. The image is for COPY --from, Kubernetes image volumes and Docker volumes.
    """
    from graftbox.cli.graft import as_image_bundle, facts, in_words
    from graftbox.cli.status import say
    from graftbox.image.bundle_image import push_bundle
    from graftbox.image.platforms import machine_architecture
    from graftbox.image.reference import parse

    reference, store = parse(target), Store()
    wanted = archs or (machine_architecture(),)
    # The other flavour is there for the machine's own architecture only.
    also = () if archs or flavor == "pyinstaller" else ("amd64", "arm64")
    found = {}
    for arch in dict.fromkeys((*wanted, *also)):
        chosen = Chosen(components, arch, recipe, compression, flavor, merge)
        made = chosen.job(store).found()
        if made is None and arch in wanted:
            made = chosen.built(store)
        if made is not None:
            found[arch] = as_image_bundle(made)
    report = push_bundle(found, reference, store, tags=tags, access=access, progress=say)
    click.echo(json.dumps(facts(report)) if as_json else in_words(report))


@bundle.command()
@choice
def path(chosen: Chosen, as_json: bool) -> None:
    """Print the folder of the unpacked /openhands, making it if need be."""
    from graftbox.bundle.tree import unpacked

    store = Store()
    chosen = dataclasses.replace(chosen, merged=False)  # the files are the same
    folder: Path = unpacked(chosen.built(store), store) / "openhands"
    click.echo(json.dumps({"path": str(folder)}) if as_json else str(folder))


def _adopt(folder: Path, job: Job, sources: Sources) -> None:
    """Takes a binary that was made elsewhere for the bundle's own, until the server's code changes."""
    from graftbox.bundle.flavor import FrozenJob
    from graftbox.cli.status import Status

    if not isinstance(job, FrozenJob):
        raise click.UsageError("--from-dist goes with --flavor pyinstaller.")
    job.adopt(folder, Status(), sources)


def _layers(made: BundleManifest) -> list[dict[str, Any]]:
    return [layer.facts for layer in made.layers]


def _print_layers(made: BundleManifest) -> None:
    def row(name: str, layers: Iterable[Layer], digest: str) -> tuple[str, ...]:
        sums = zip(*((layer.compressed_size, layer.size, layer.files) for layer in layers), strict=True)
        compressed, size, files = map(sum, sums)
        return name, shown(compressed), shown(size), str(files), digest

    rows = [row(layer.name, [layer], layer.digest) for layer in made.layers]
    head = ("layer", "compressed", "unpacked", "files", "digest")
    print_table([head, *rows, row("together", made.layers, "")])


def shown(size: int) -> str:
    return f"{size / MEGA:.1f} MB" if size >= MEGA / 10 else f"{size / 1000:.0f} kB"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; those of `NUMBERS` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [name in NUMBERS for name in rows[0]]
    for cells in rows:
        columns = zip(cells, widths, right, strict=True)
        line = "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width) for cell, width, numeric in columns
        )
        click.echo(line.rstrip())

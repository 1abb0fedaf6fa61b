"""``graftbox image``: runtime images in an engine, by grafting or by building."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graftbox.cli.options import checked_user, component_option
from graftbox.cli.registries import registry_options
from graftbox.cli.ways import METHODS, REPOSITORY, Wanted, make

if TYPE_CHECKING:
    from graftbox.image.transports import Access


@click.group()
def image() -> None:
    """Make runtime images with Docker, Podman or Buildah, for those who have to build."""


@image.command()
@click.argument("base")
@click.option("--method", type=click.Choice(METHODS), default="graft", show_default=True)
@click.option(
    "--engine", type=click.Choice(["docker", "podman", "buildah"]), default="docker", show_default=True
)
@click.option("--repo", "repository", default=REPOSITORY, show_default=True, help="The result's repository.")
@component_option
@click.option("--platform", help="Such as linux/arm64 (default: this machine's).")
@click.option("--user", callback=checked_user, help="The runtime image's user instead of the base's.")
@click.option(
    "--keep-entrypoint", is_flag=True, help="Also run the base's entrypoint, as a supervised child."
)
@click.option("--extra-deps", metavar="COMMAND", help="A shell command that is run in the image too.")
@click.option("--bundle-image", metavar="REF", help="With copy: a bundle that was pushed before.")
@click.option(
    "--build-folder",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Only write the build context and the tags there.",
)
@click.option("--build-option", "options", metavar="OPTION", multiple=True, help="Passed on to the builder.")
@click.option("--force", is_flag=True, help="Build even if the image is there.")
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def build(
    base: str,
    method: str,
    engine: str,
    repository: str,
    components: tuple[str, ...],
    platform: str | None,
    user: str | None,
    keep_entrypoint: bool,
    extra_deps: str | None,
    bundle_image: str | None,
    folder: Path | None,
    options: tuple[str, ...],
    force: bool,
    access: Access,
    as_json: bool,
) -> None:
    """Make a runtime image of BASE in an engine and print its name; one that is there is not made again.

    graft adds the bundle's layers without building anything; copy builds a Dockerfile that copies the
    bundle; install builds one that installs everything inside the image, with apt and pip, as was usual
    before. The tags are those of graftbox tags.
    """
    from graftbox.store import Store

    wanted = Wanted(
        base=base,
        access=access,
        method=method,
        engine=engine,
        repository=repository,
        components=components,
        platform=platform,
        user=user,
        keep_entrypoint=keep_entrypoint,
        extra_deps=extra_deps,
        bundle_image=bundle_image,
        options=options,
        force=force,
        folder=folder,
    )
    made = make(wanted, Store())
    click.echo(json.dumps(dataclasses.asdict(made)) if as_json else made.image)

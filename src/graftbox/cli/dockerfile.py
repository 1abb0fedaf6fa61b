"""``graftbox dockerfile``: prints the Dockerfile of one of the ways that build."""

from __future__ import annotations

import click

from graftbox.cli.options import checked_user, component_option


@click.command()
@click.argument("base")
@click.option(
    "--method", type=click.Choice(["copy", "install", "pyinstaller"]), default="copy", show_default=True
)
@click.option(
    "--bundle-image",
    metavar="REF",
    help="With copy: the bundle's own image (default: the name that image build gives it in the engine).",
)
@component_option
@click.option("--platform", help="Such as linux/arm64 (default: this machine's).")
@click.option("--user", callback=checked_user, help="The runtime image's user instead of the base's.")
@click.option(
    "--keep-entrypoint", is_flag=True, help="Also run the base's entrypoint, as a child; reads the base."
)
@click.option("--extra-deps", metavar="COMMAND", help="A shell command that is run in the image too.")
def dockerfile(
    base: str,
    method: str,
    bundle_image: str | None,
    components: tuple[str, ...],
    platform: str | None,
    user: str | None,
    keep_entrypoint: bool,
    extra_deps: str | None,
) -> None:
    """Print a Dockerfile that makes a runtime image of BASE, which is looked at only to keep its entrypoint.

    copy takes /openhands out of the bundle's image (graftbox bundle push). install and pyinstaller need
    files beside the Dockerfile: graftbox image build --build-folder writes them too.
    """
    from graftbox.cli.beginning import beginning
    from graftbox.cli.ways import Wanted, bundle_for, bundle_name, image_facts
    from graftbox.image import dockerfile as render
    from graftbox.image.reference import image_name, parse
    from graftbox.image.transports import Access
    from graftbox.store import Store

    reference = parse(base)
    render.from_name(reference)
    wanted = Wanted(
        base,
        Access(),
        method,
        components=components,
        platform=platform,
        user=user,
        keep_entrypoint=keep_entrypoint,
        extra_deps=extra_deps,
    )
    begins = beginning(reference, None, wanted, Store()) if keep_entrypoint else None
    if method == "pyinstaller":
        text = render.pyinstaller(image_facts(reference, wanted, None, begins))
    elif method == "install":
        image = image_facts(reference, wanted, bundle_for(wanted, Store()), begins)
        text = render.install(image, render.Start.SCRATCH)
    elif bundle_image:
        text = render.copy(image_facts(reference, wanted, None, begins), str(image_name(bundle_image)))
    else:
        bundle = bundle_for(wanted, Store())
        text = render.copy(image_facts(reference, wanted, bundle, begins), bundle_name(bundle))
    click.echo(text, nl=False)

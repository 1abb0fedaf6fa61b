"""``graftbox dockerfile``: prints the Dockerfile of one of the ways that build."""

from __future__ import annotations

import click


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
@click.option(
    "--component", "components", metavar="NAME", multiple=True, help="A part of the bundle (default: all)."
)
@click.option("--platform", help="Such as linux/arm64 (default: this machine's).")
@click.option("--user", help="The runtime image's user instead of the base's.")
@click.option("--extra-deps", metavar="COMMAND", help="A shell command that is run in the image too.")
def dockerfile(
    base: str,
    method: str,
    bundle_image: str | None,
    components: tuple[str, ...],
    platform: str | None,
    user: str | None,
    extra_deps: str | None,
) -> None:
    """Print a Dockerfile that makes a runtime image of BASE, which is not looked at.

    copy takes /openhands out of the bundle's image (graftbox bundle push). install and pyinstaller need
    files beside the Dockerfile: graftbox image build --build-folder writes them too.
    """
    from graftbox.cli.ways import Wanted, bundle_for, bundle_name, image_facts
    from graftbox.image import dockerfile as render
    from graftbox.image.reference import image_name, parse
    from graftbox.image.transports import Access
    from graftbox.store import Store

    reference = parse(base)
    render.from_name(reference)
    wanted = Wanted(
        base, Access(), method, components=components, platform=platform, user=user, extra_deps=extra_deps
    )
    if method == "pyinstaller":
        text = render.pyinstaller(image_facts(reference, wanted, None))
    elif method == "install":
        text = render.install(
            image_facts(reference, wanted, bundle_for(wanted, Store())), render.Start.SCRATCH
        )
    elif bundle_image:
        text = render.copy(image_facts(reference, wanted, None), str(image_name(bundle_image)))
    else:
        bundle = bundle_for(wanted, Store())
        text = render.copy(image_facts(reference, wanted, bundle), bundle_name(bundle))
    click.echo(text, nl=False)

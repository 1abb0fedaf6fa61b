"""``graftbox package-browser``: writes the browser alone, to use it without /openhands."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("package-browser")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--target", metavar="PATH", help="Where DIR will be when it is used (default: where it is now)."
)
@click.option("--fonts", is_flag=True, help="With fonts for Chinese, Japanese, Korean and emoji: 70 MB more.")
@click.option("--arch", type=click.Choice(["amd64", "arm64"]), help="Default: this machine's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def package_browser(folder: Path, target: str | None, fonts: bool, arch: str | None, as_json: bool) -> None:
    """Write headless Chromium with all it needs to DIR, a new or empty folder.

    It runs on any Linux image at that path, whatever its C library, and is what Playwright's executable_path
    wants: DIR/chromium.
    """
    from graftbox.bundle import portable
    from graftbox.bundle.build import build
    from graftbox.bundle.tree import unpacked
    from graftbox.cli.status import Status
    from graftbox.store import Store

    place = portable.checked(target or str(folder.absolute()))
    store = Store()
    components = ["browser", *(["fonts"] if fonts else [])]
    tree = unpacked(build(arch=arch, components=components, store=store, progress=Status()), store)
    program = portable.write(tree / "openhands", folder, place)
    shown = f"{place}/{program.name}"
    click.echo(json.dumps({"executable_path": shown}) if as_json else shown)

"""``python -m graftbox.runtime_build``: the command line of OpenHands' runtime builder, on `cli.ways`.

Prints the name of the image, as it does. By default the image is grafted; ``--method install`` is the old
way.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from graftbox.cli.status import say
from graftbox.cli.ways import METHODS, Wanted, make
from graftbox.errors import GraftboxError

DEFAULT_BASE = "nikolaik/python-nodejs:python3.12-nodejs22"
DEFAULT_REPOSITORY = "ghcr.io/openhands/runtime"


def parser(program: str = "graftbox.runtime_build") -> argparse.ArgumentParser:
    """The options of its model, in both spellings, and ours."""
    made = argparse.ArgumentParser(f"python -m {program}", description="Make a base's runtime image.")
    made.add_argument("--base_image", "--base-image", default=DEFAULT_BASE, help="default: %(default)s")
    made.add_argument("--build_folder", "--build-folder", type=Path, help="only write the context there")
    made.add_argument("--force_rebuild", "--force-rebuild", action="store_true")
    made.add_argument("--platform", help="such as linux/arm64")
    made.add_argument("--extra_deps", "--extra-deps", help="a shell command that is run in the image too")
    made.add_argument("--enable_browser", "--enable-browser", action="store_true", default=True)
    made.add_argument(
        "--no_enable_browser", "--no-enable-browser", action="store_false", dest="enable_browser"
    )
    made.add_argument("--method", choices=METHODS, help="default: graft; copy to build or write a folder")
    made.add_argument("--engine", choices=["docker", "podman", "buildah"], default="docker")
    return made


def components(enable_browser: bool) -> tuple[str, ...]:
    """The bundle's parts; all of them if the browser is wanted."""
    from graftbox.bundle.recipe import Recipe

    names = Recipe.builtin().defaults
    return () if enable_browser or "browser" not in names else tuple(n for n in names if n != "browser")


def main(
    argv: Sequence[str] | None = None,
    program: str = "graftbox.runtime_build",
    method: str | None = None,
) -> int:
    """Runs the command; returns the exit code. ``method`` is what is done where the options name none."""
    from graftbox.image.transports import Access
    from graftbox.store import Store

    options = parser(program).parse_args(argv)
    usual = "copy" if options.extra_deps or options.build_folder else "graft"
    try:
        wanted = Wanted(
            base=options.base_image,
            access=Access(),
            method=options.method or method or usual,
            engine=options.engine,
            repository=os.environ.get("OH_RUNTIME_RUNTIME_IMAGE_REPO") or DEFAULT_REPOSITORY,
            components=components(options.enable_browser),
            platform=options.platform,
            extra_deps=options.extra_deps,
            force=options.force_rebuild,
            folder=options.build_folder,
        )
        print(make(wanted, Store()).image)
    except GraftboxError as error:
        say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Options that several commands have: which bundle is meant, and in which form."""

from __future__ import annotations

import math
from typing import Any

import click


class Amount(click.FloatRange):
    """A number that is not negative; ``nan`` and ``inf`` are none."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number of that kind.", param, ctx)
        return number


component_option = click.option(
    "--component", "components", metavar="NAME", multiple=True, help="A part of the bundle (default: all)."
)
compression_option = click.option(
    "--compression",
    type=click.Choice(["gzip", "zstd", "estargz"]),
    default="gzip",
    show_default=True,
    help="Form of the bundle's layers, each built and cached by itself; all but gzip make OCI images.",
)
flavor_option = click.option(
    "--flavor",
    type=click.Choice(["tree", "pyinstaller"]),
    default="tree",
    show_default=True,
    help="How the server comes: as files of Python, or as one binary.",
)

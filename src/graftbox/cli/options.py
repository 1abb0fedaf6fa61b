"""Options that several commands have: which bundle is meant, and in which form."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Amount(click.FloatRange):
    """A number that is not negative; ``nan`` and ``inf`` are none."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number of that kind.", param, ctx)
        return number


def checked_user(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """``NAME``, ``UID``, either with ``:GROUP``; what no image can have is refused at once."""
    if value is not None and not re.fullmatch(r"[^\s:]+(:[^\s:]+)?", value):
        raise click.BadParameter("write a user's name or number, or USER:GROUP.", ctx, param)
    return value


def checked_tags(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Tags as registries have them."""
    if value:
        from graftbox.image.reference import checked_tag

        value = tuple(map(checked_tag, value))
    return value


component_option = click.option(
    "--component",
    "components",
    metavar="NAME",
    multiple=True,
    help="A part of the bundle; may be repeated (default: `default`, which is all but optional ones).",
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
merge_option = click.option(
    "--merge",
    is_flag=True,
    help="All components as one layer below the server's, instead of a layer each.",
)


def source_options(function: F) -> F:
    """Adds the options that say where packages come from; the command gets them as one ``sources``."""

    @click.option("--debian-mirror", metavar="URL", help="Debian's archive (default: this machine's apt).")
    @click.option("--security-mirror", metavar="URL", help="Debian's security archive (default: apt's).")
    @click.option(
        "--snapshot", metavar="URL", help="A snapshot archive, for versions that mirrors have dropped."
    )
    @click.option("--index-url", metavar="URL", help="The Python package index (default: pip's or uv's).")
    @click.option("--npm-registry", metavar="URL", help="The npm registry (default: npm's).")
    @functools.wraps(function)
    def wrapped(
        *arguments: Any,
        debian_mirror: str | None,
        security_mirror: str | None,
        snapshot: str | None,
        index_url: str | None,
        npm_registry: str | None,
        **options: Any,
    ) -> Any:
        from graftbox.bundle.sources import Sources

        sources = Sources.find(
            debian_mirror=debian_mirror,
            security_mirror=security_mirror,
            snapshot=snapshot,
            index_url=index_url,
            npm_registry=npm_registry,
        )
        return function(*arguments, sources=sources, **options)

    return wrapped  # type: ignore[return-value]  # click's decorators keep no signatures

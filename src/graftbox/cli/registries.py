"""The options that say how registries are spoken to, the same for every command that does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
ca_option = click.option(
    "--ca",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    envvar="GRAFTBOX_CA",
    help="Certificate authorities (PEM, or a folder of them) to trust beside the system's and those in "
    "certs.d.",
)


def registry_options(function: F) -> F:
    """Adds ``--plain-http`` and ``--ca``; the command gets both as one ``access``."""

    @click.option(
        "--plain-http",
        multiple=True,
        metavar="HOST[:PORT]",
        envvar="GRAFTBOX_PLAIN_HTTP",
        help="A registry that is spoken to without TLS; loopback addresses always are.",
    )
    @ca_option
    @functools.wraps(function)
    def wrapped(*arguments: Any, plain_http: tuple[str, ...], ca: Path | None, **options: Any) -> Any:
        from graftbox.image.transports import Access

        hosts = frozenset(host.lower() for host in plain_http)
        return function(*arguments, access=Access(insecure=hosts, authority=ca), **options)

    return wrapped  # type: ignore[return-value]  # click's decorators keep no signatures

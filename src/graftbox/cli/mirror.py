"""``graftbox mirror``: a registry that grafts whatever is pulled through it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graftbox.cli.options import (
    checked_user,
    component_option,
    compression_option,
    flavor_option,
    merge_option,
)
from graftbox.cli.registries import ca_option
from graftbox.cli.status import say

if TYPE_CHECKING:
    from graftbox.image.mirror import Mirror


@click.command()
@click.option("--listen", default="127.0.0.1:5055", show_default=True, metavar="HOST:PORT")
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Let --listen name an address that others reach: they then read with this machine's log-ins.",
)
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="HOST[=URL]",
    default=("docker.io",),
    show_default=True,
    help="A registry that may be pulled from; may be repeated. With a URL, where it is really asked.",
)
@component_option
@compression_option
@flavor_option
@merge_option
@click.option("--user", callback=checked_user, help="The runtime images' user instead of the bases'.")
@click.option(
    "--keep-entrypoint", is_flag=True, help="Also run the base's entrypoint, as a supervised child."
)
@click.option(
    "--layers",
    type=click.Choice(["redirect", "stream"]),
    default="redirect",
    show_default=True,
    help="Send clients to upstream for base layers that need no log-in, or pass all of them on.",
)
@click.option(
    "--tag-lifetime",
    type=float,
    default=30.0,
    show_default=True,
    help="Seconds until a tag is looked up again.",
)
@ca_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when it is ready.")
def mirror(
    listen: str,
    allow_remote: bool,
    upstreams: tuple[str, ...],
    components: tuple[str, ...],
    compression: str,
    flavor: str,
    merge: bool,
    user: str | None,
    keep_entrypoint: bool,
    layers: str,
    tag_lifetime: float,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Serve a read-only registry that grafts what is pulled through it, until interrupted.

    docker pull localhost:5055/docker.io/library/ubuntu:22.04 then pulls a runtime image. Nothing else than
    manifests and configs is made or kept; base layers stay where they are.
    """
    from graftbox.cli.graft import bundles
    from graftbox.image.mirror import Mirror, Settings
    from graftbox.image.upstream import Upstream
    from graftbox.store import Store

    host, port, local = address(listen, allow_remote)
    settings = Settings(
        upstreams=tuple(Upstream.parse(text) for text in upstreams),
        user=user,
        keep_entrypoint=keep_entrypoint,
        redirect=layers == "redirect",
        local=local,
        authority=ca,
        lifetime=tag_lifetime,
    )
    store = Store()
    made = bundles(components, None, store, compression, flavor, merge=merge)

    def ready(bound: int) -> None:
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        facts = {
            "url": url,
            "upstreams": [upstream.name for upstream in settings.upstreams],
            "bundles": {arch: bundle.digest for arch, bundle in made.items()},
        }
        names, platforms = ", ".join(facts["upstreams"]), ", ".join(f"linux/{arch}" for arch in made)
        click.echo(json.dumps(facts) if as_json else f"mirror of {names} at {url} for {platforms}")

    application = Mirror(settings, made, store, say)
    try:
        asyncio.run(_serve(application, host, port, ready))
    finally:
        application.close()


def address(listen: str, allow_remote: bool) -> tuple[str, int, bool]:
    """Host, port, and whether all clients are on this machine; `UsageError` for others unless allowed."""
    from graftbox.errors import UsageError
    from graftbox.image.transports import is_loopback

    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen takes HOST:PORT, such as 127.0.0.1:5055 or [::1]:5055, not {listen!r}.")
    local = is_loopback(f"{host}:{port}")
    if not local and not allow_remote:
        raise UsageError(
            f"{listen} is an address that other machines may reach, and whoever reaches the mirror reads "
            "with this machine's registry log-ins. Add --allow-remote if you want that."
        )
    return host.strip("[]"), int(port), local and not allow_remote


async def _serve(application: Mirror, host: str, port: int, ready: object) -> None:
    # The HTTP host of the sandboxes' server: h11 under asyncio. h11 is here anyway, below httpx2.
    from graftbox.errors import TransportError
    from graftbox.server.host import Host

    server = Host(application)
    try:
        await server.listen(host, port, None)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise TransportError(
            f"Cannot listen on {host}:{port}: {reason}. Choose another address with --listen."
        ) from error
    assert callable(ready)
    ready(server.port)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await server.close()

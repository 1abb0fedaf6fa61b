"""``graftbox graft``: makes a runtime image from a base image."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from graftbox.cli.options import (
    checked_tags,
    checked_user,
    component_option,
    compression_option,
    flavor_option,
    merge_option,
)
from graftbox.cli.registries import registry_options

if TYPE_CHECKING:
    from graftbox.bundle.manifest import BundleManifest, Layer
    from graftbox.cli.sbom import Additions
    from graftbox.image.graft import Bundle
    from graftbox.image.place import Report
    from graftbox.image.reference import Reference
    from graftbox.image.transports import Access
    from graftbox.store import Store


@click.command()
@click.argument("base", required=False)
@click.argument("target", required=False)
@component_option
@compression_option
@flavor_option
@merge_option
@click.option("--user", callback=checked_user, help="The runtime image's user instead of the base's.")
@click.option(
    "--keep-entrypoint", is_flag=True, help="Also run the base's entrypoint, as a supervised child."
)
@click.option("--platform", help="One platform of a multi-platform base, such as linux/arm64.")
@click.option(
    "--tag",
    "tags",
    multiple=True,
    callback=checked_tags,
    help="A further tag for the result; may be repeated.",
)
@click.option("--to-repo", metavar="REPO", help="Instead of TARGET: this repository, under tags of content.")
@click.option(
    "--from", "listed", metavar="FILE", help="Instead of BASE: a list of them, one a line; - is stdin."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="With --from: how many at a time.",
)
@click.option("--shard", metavar="I/N", default="1/1", help="With --from: only this part of the list.")
@click.option(
    "--naming",
    type=click.Choice(["tags", "repos"]),
    default="tags",
    show_default=True,
    help="One repository for all bases, or one below REPO for each.",
)
@click.option("--attest", is_flag=True, help="Attach provenance and the bundle's SBOM to the pushed image.")
@click.option(
    "--sign-with", metavar="PROGRAM", help="Sign the pushed image with cosign, notation or a command."
)
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def graft(
    base: str | None,
    target: str | None,
    components: tuple[str, ...],
    compression: str,
    flavor: str,
    merge: bool,
    user: str | None,
    keep_entrypoint: bool,
    platform: str | None,
    tags: tuple[str, ...],
    to_repo: str | None,
    listed: str | None,
    jobs: int,
    shard: str,
    naming: str,
    attest: bool,
    sign_with: str | None,
    access: Access,
    as_json: bool,
) -> None:
    """Add /openhands to the image BASE and store the result as TARGET.

    Both are docker://NAME (the default), docker-daemon:NAME, containers-storage:NAME (podman),
    containerd:[NAMESPACE]NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]; BASE may
    also be scratch.

    With --to-repo, the result gets three tags made of what it consists of (see graftbox tags), and is not
    made again if it is there. With --from, thousands of bases are dealt with in one run: one JSON object a
    line on standard output for each; the same command again goes on where it was interrupted. With --to-repo
    docker-daemon:NAME, the bases of the list are Docker's own and the results go there, in few streams.
    """
    from graftbox.image.place import graft_image
    from graftbox.image.platforms import machine_architecture
    from graftbox.image.reference import parse
    from graftbox.image.tags import Choice
    from graftbox.store import Store

    store = Store()
    source = parse(base) if base is not None else None

    def look() -> None:
        _look_at(source, store, access)

    added = _additions(attest, sign_with, parse(target) if target else None, to_repo, store)
    if to_repo or listed:
        from graftbox.cli import batch

        if tags or (target is not None) or not to_repo or (base is None) is (listed is None):
            raise click.UsageError(
                "Write: graft BASE TARGET, graft BASE --to-repo REPO, or graft --from FILE --to-repo REPO."
            )
        found = bundles(components, platform, store, compression, flavor, look, merge)
        choice = Choice(found, user, keep_entrypoint, platform)
        docker = "docker-daemon:"
        if listed is not None and to_repo.startswith(docker):
            sys.exit(batch.into_docker(listed, to_repo.removeprefix(docker), choice, store, access))
        if listed is not None:
            sys.exit(batch.many(listed, to_repo, choice, store, access, jobs, shard, naming, added))
        assert base is not None
        made = batch.one(base, to_repo, choice, store, access, naming, as_json)
        if added:
            added.add(parse(made.image), made.digest, choice.bundles, access, made.status == "made")
        return
    if source is None or target is None:
        raise click.UsageError("Name BASE and TARGET, or BASE and --to-repo REPO.")
    place = parse(target)
    # Where one platform only can be stored, the others' bundles need not be looked for.
    only = None if place.transport.holds_many_platforms else f"linux/{machine_architecture()}"
    chosen = bundles(components, platform or only, store, compression, flavor, look, merge)
    report = graft_image(
        source,
        place,
        chosen,
        store,
        user=user,
        keep_entrypoint=keep_entrypoint,
        platform=platform,
        tags=tags,
        access=access,
        progress=_say,
    )
    if added:
        added.add(place, report.digest, chosen, access)
    click.echo(json.dumps(facts(report)) if as_json else in_words(report))


def _additions(
    attest: bool, sign_with: str | None, target: Reference | None, to_repo: str | None, store: Store
) -> Additions | None:
    """What is done to pushed images; refused before anything is pushed where it cannot be."""
    if not attest and not sign_with:
        return None
    from graftbox.cli import sbom
    from graftbox.image.reference import Transport

    elsewhere = target is not None and target.transport is not Transport.REGISTRY
    if elsewhere or (to_repo or "").startswith("docker-daemon:"):
        raise click.UsageError(
            f"{target or to_repo} is not in a registry: only images there are attested and signed."
        )
    if sign_with:
        sbom.signer(sign_with)
    return sbom.Additions(attest, sign_with, sbom.sboms(store))


def _look_at(base: Reference | None, store: Store, access: Access) -> None:
    """Notices a wrong name or an unreachable registry before a bundle is built, which takes a while."""
    from graftbox.image.reference import Transport
    from graftbox.image.transports import open_source

    if base is not None and base.transport is not Transport.SCRATCH:
        with contextlib.closing(open_source(base, store, access, whole=False)) as source:
            source.resolve()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def bundles(
    components: Sequence[str],
    platform: str | None,
    store: Store,
    compression: str = "gzip",
    flavor: str = "tree",
    before: Callable[[], None] = lambda: None,
    merge: bool = False,
) -> dict[str, Bundle]:
    """The bundles to graft, by architecture; the asked one or this machine's is built if it has to be.

    ``before`` is called before that: what else can fail should do so sooner. Where the layers are not to be
    merged, that is still done when a base first leaves no room for them.
    """
    from graftbox.bundle import known
    from graftbox.image.platforms import architecture, machine_architecture

    wanted = architecture(platform) if platform else machine_architecture()
    found = {}
    one = platform or flavor == "pyinstaller"  # which is there for the machine's own architecture only
    for arch in [wanted] if one else dict.fromkeys((wanted, "amd64", "arm64")):
        manifest = known.current(arch, components, store, compression, flavor, merge)
        build = functools.partial(
            _build, arch=arch, components=components, store=store, compression=compression, flavor=flavor
        )
        if manifest is None and arch == wanted:
            before()
            _say(f"building the bundle for linux/{arch} first (graftbox bundle build)")
            manifest = build(merged=merge)
        if manifest is not None:
            fewer = (
                None if merge else functools.cache(lambda build=build: as_image_bundle(build(merged=True)))
            )
            found[arch] = as_image_bundle(manifest, fewer)
    return found


def _build(**named: Any) -> BundleManifest:
    from graftbox.bundle import build

    return build.build(**named)


def as_image_bundle(manifest: BundleManifest, fewer: Callable[[], Bundle] | None = None) -> Bundle:
    """A bundle manifest as the image side sees it; the two sides do not import one another."""
    from graftbox.image.graft import Bundle, BundleLayer

    layers = [
        BundleLayer(
            name=layer.name,
            component=layer.component,
            digest=layer.digest,
            diff_id=layer.diff_id,
            size=layer.size,
            compressed_size=layer.compressed_size,
            compression="zstd" if layer.compression == "zstd" else "gzip",
            annotations=_annotations(layer),
        )
        for layer in manifest.layers
    ]
    return Bundle(
        manifest.arch,
        manifest.digest,
        manifest.version,
        manifest.components,
        tuple(layers),
        manifest.lock,
        manifest.flavor,
        fewer,
    )


def _annotations(layer: Layer) -> tuple[tuple[str, str], ...]:
    """What the descriptor of an eStargz layer has to say."""
    from graftbox.bundle.estargz import TOC_DIGEST, UNPACKED_SIZE

    return ((TOC_DIGEST, layer.toc), (UNPACKED_SIZE, str(layer.size))) if layer.toc else ()


def facts(report: Report) -> dict[str, object]:
    """The object that ``--json`` prints."""
    return asdict(report)


def in_words(report: Report) -> str:
    """One line for people."""
    sent = f"{report.layers_sent} layers, {report.bytes_sent / 1e6:.2f} MB sent"
    return f"{report.image}\n{report.digest}  {', '.join(report.platforms)}  {sent}, {report.seconds:.3f} s"

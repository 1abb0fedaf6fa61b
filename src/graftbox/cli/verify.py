"""``graftbox verify``: proves that an image is exactly base + bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from graftbox.cli.registries import registry_options

if TYPE_CHECKING:
    from graftbox.image.transports import Access
    from graftbox.image.verify import Checked, Known, Verdict
    from graftbox.store import Store


@click.command()
@click.argument("image")
@click.option("--base", metavar="REF", help="Where the base is now, if not where the image says.")
@click.option("--bundle", metavar="REF", help="A bundle that was pushed, instead of those built here.")
@click.option("--layers", is_flag=True, help="Also read every byte of every layer.")
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    image: str, base: str | None, bundle: str | None, layers: bool, access: Access, as_json: bool
) -> None:
    """Prove that IMAGE is exactly its base plus the bundle, and nothing else. Exits with 1 if it is not.

    The graft is made again from the base that the image names by digest and from a bundle that is known
    here, and must give the same bytes. Only manifests and configs are read, unless --layers is given.
    """
    from graftbox.image.reference import parse
    from graftbox.image.verify import Question
    from graftbox.image.verify import verify as check
    from graftbox.store import Store

    store = Store()
    with access.shared(parallel=4) as registries:
        question = Question(
            parse(image),
            known_bundles(store),
            store,
            base=parse(base) if base else None,
            bundle=parse(bundle) if bundle else None,
            layers=layers,
            access=replace(access, registries=registries),
        )
        verdict = check(question)
    click.echo(json.dumps(verdict.facts()) if as_json else in_words(verdict))
    sys.exit(0 if verdict.ok else 1)


def known_bundles(store: Store) -> Known:
    """Looks bundles up in the cache by their digest, whichever recipe and release made them."""
    from graftbox.bundle.manifest import parse
    from graftbox.cli.graft import as_image_bundle
    from graftbox.errors import FormatError
    from graftbox.image.graft import Bundle

    def known(digest: str, arch: str) -> list[Bundle]:
        found = []
        for path in sorted((store.root / "bundles").glob("*/*.json")):
            try:
                manifest = parse(path.read_bytes(), str(path))
            except FormatError:
                continue
            if manifest.digest == digest and manifest.arch == arch:
                found.append(as_image_bundle(manifest))
        return found

    return known


def in_words(verdict: Verdict) -> str:
    """For people: what the image is made of, then each difference on a line of its own."""
    lines = [f"{verdict.image}  {verdict.digest}".rstrip()]
    for checked in verdict.platforms:
        lines += _platform(checked)
    for one in verdict.attached:
        said = one.problem or ("right" if one.checked else "not checked by graftbox")
        lines.append(f"  attached: {one.artifact_type or 'an artifact'} {one.digest[:19]}: {said}")
    lines += [f"  {difference}" for difference in verdict.differences]
    lines += [f"  note: {note}" for note in verdict.notes]
    count = len(verdict.all_differences)
    if verdict.ok:
        lines.append("It is exactly base + bundle.")
    else:
        lines.append(f"It is NOT base + bundle: {count} difference{'s' * (count > 1)}.")
    return "\n".join(lines)


def _platform(checked: Checked) -> list[str]:
    lines = []
    if checked.bundle:
        base = f"{checked.base}{f' {checked.base_digest}' if checked.base_digest else ''}"
        lines.append(f"{checked.platform}: {base}")
        lines.append(f"  + bundle {checked.bundle} (graftbox {checked.version})")
    if not checked.differences:
        options = [f"user {checked.user or 'of the image'}"] if checked.user is not None else []
        options += ["the base's entrypoint as a child"] if checked.keep_entrypoint else []
        read = f", {checked.bytes_read / 1e6:.1f} MB read" if checked.bytes_read else ""
        lines.append(
            f"  {checked.base_layers} layers of the base, {checked.bundle_layers} of the bundle{read}"
        )
        lines += [f"  chosen when grafting: {', '.join(options)}"] if options else []
    return lines + [f"  {difference}" for difference in checked.differences]

"""``graftbox doctor``: says what will and won't work on an image, before anything runs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from graftbox.cli.registries import registry_options

if TYPE_CHECKING:
    from graftbox.image.inspection import Diagnosis
    from graftbox.image.transports import Access

MARKS = {"good": "ok", "note": "--", "problem": "NO"}


@click.command()
@click.argument("base")
@click.option("--platform", help="The platform to judge for instead of this machine's, such as linux/arm64.")
@click.option("--quick", is_flag=True, help="Read no layers: manifest and config only.")
@registry_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(base: str, platform: str | None, quick: bool, access: Access, as_json: bool) -> None:
    """Examine the image BASE without running anything of it. Exits with 1 if it cannot be used."""
    from graftbox.image.inspection import diagnose
    from graftbox.image.platforms import architecture
    from graftbox.image.reference import parse
    from graftbox.store import Store

    diagnosis = diagnose(
        parse(base),
        Store(),
        arch=architecture(platform) if platform else None,
        quick=quick,
        access=access,
    )
    click.echo(json.dumps(facts(diagnosis)) if as_json else in_words(diagnosis))
    if not diagnosis.usable:
        sys.exit(1)


def facts(diagnosis: Diagnosis) -> dict[str, object]:
    """The object that ``--json`` prints."""
    return {
        "image": diagnosis.image,
        "digest": diagnosis.digest,
        "usable": diagnosis.usable,
        "platforms": list(diagnosis.platforms),
        "bytes_read": diagnosis.bytes_read,
        "findings": [{"topic": f.topic, "level": f.level.value, "text": f.text} for f in diagnosis.findings],
    }


def in_words(diagnosis: Diagnosis) -> str:
    """A table for people."""
    lines = [diagnosis.image, f"   {'platforms':<13} {', '.join(diagnosis.platforms)}"]
    lines += [f"{MARKS[f.level.value]} {f.topic:<13} {f.text}" for f in diagnosis.findings]
    read = f" ({diagnosis.bytes_read / 1e6:.1f} MB of layers read)" if diagnosis.bytes_read else ""
    lines.append(("usable" if diagnosis.usable else "not usable") + read)
    return "\n".join(lines)

"""Where two documents differ, field by field, in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graftbox.errors import GraftboxError
from graftbox.image.graft import Image
from graftbox.image.manifest import parse_object
from graftbox.store import digest_of

LONGEST_VALUE = 100
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be; ``where`` is a path such as ``config.config.Env[2]``."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def between_images(expected: Image, found: Image, with_manifest: bool = True) -> list[Difference]:
    """Every difference of config and manifest; none means that they are equal byte for byte.

    Without ``with_manifest``, manifests are not compared: engines and docker archives keep none.
    """
    config = list(between_bytes(expected.config, found.config, "config"))
    if not with_manifest:
        return config
    manifest = list(between_bytes(expected.manifest.data, found.manifest.data, "manifest"))
    if config:
        # That another config has another name says nothing new.
        named = ("manifest.config.digest", "manifest.config.size")
        manifest = [difference for difference in manifest if difference.where not in named]
    return [*config, *manifest]


def between_bytes(expected: bytes, found: bytes, where: str) -> Iterator[Difference]:
    """The differences of two JSON objects; equal objects in other bytes differ too, as their digests do."""
    if expected == found:
        return
    try:
        wanted, have = parse_object(expected, where), parse_object(found, where)
    except GraftboxError as error:
        yield Difference(where, str(error))
        return
    differences = list(between(wanted, have, where))
    if differences:
        yield from differences
        return
    yield Difference(
        where,
        f"the same content in other bytes: {digest_of(found)} instead of {digest_of(expected)}; some "
        "program has written it again",
    )


def between(expected: Any, found: Any, where: str) -> Iterator[Difference]:
    """The differences of two parsed JSON values, those of objects by sorted key."""
    if type(expected) is not type(found):
        yield Difference(where, f"is {_shown(found)} instead of {_shown(expected)}")
    elif isinstance(expected, dict):
        for key in sorted(expected.keys() | found.keys()):
            path = f"{where}.{key}" if "." not in key else f"{where}[{json.dumps(key)}]"
            if key not in found:
                yield Difference(path, f"is missing; it should be {_shown(expected[key])}")
            elif key not in expected:
                yield Difference(path, f"should not be there: {_shown(found[key])}")
            else:
                yield from between(expected[key], found[key], path)
    elif isinstance(expected, list):
        if len(expected) != len(found):
            yield Difference(where, f"has {len(found)} entries instead of {len(expected)}")
        for number, (wanted, have) in enumerate(zip(expected, found, strict=False)):
            yield from between(wanted, have, f"{where}[{number}]")
        for number in range(len(expected), len(found)):
            yield Difference(f"{where}[{number}]", f"should not be there: {_shown(found[number])}")
        for number in range(len(found), len(expected)):
            yield Difference(f"{where}[{number}]", f"is missing; it should be {_shown(expected[number])}")
    elif expected != found:
        yield Difference(where, f"is {_shown(found)} instead of {_shown(expected)}")


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"

"""``graftbox bundle sbom``: what the bundle is made of; and what ``--attest`` attaches to images."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from graftbox.bundle.build import Job
    from graftbox.image.attestation import Sbom
    from graftbox.image.graft import Bundle
    from graftbox.image.reference import Reference
    from graftbox.image.transports import Access
    from graftbox.store import Store

SIGNERS = {"cosign": ("sign", "--yes"), "notation": ("sign",)}
"""What a signing program is called with if only its name is given; the image's name follows."""


def print_sbom(job: Job, output: Path | None) -> None:
    """Prints the SBOM of a bundle that is built, or writes it to a file."""
    from graftbox.bundle.sbom import sbom as make
    from graftbox.errors import NotFoundError, StorageError

    made = job.found()
    if made is None:
        raise NotFoundError(
            "This bundle is not built yet. Run `graftbox bundle build` with the same options."
        )
    data = make(made, job.lock, job.store)
    if output is None:
        click.echo(data, nl=False)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise StorageError(f"Cannot write {output}: {error.strerror}. Name another file.") from error


def sboms(store: Store) -> Sbom:
    """Makes the SBOM of a bundle of the built-in recipe that is built here."""
    from graftbox.bundle.build import current
    from graftbox.bundle.lock import Lock
    from graftbox.bundle.recipe import Recipe
    from graftbox.bundle.sbom import sbom as make
    from graftbox.errors import NotFoundError

    made: dict[str, bytes] = {}

    def of(bundle: Bundle) -> bytes:
        if bundle.digest not in made:
            form, flavor = _form(bundle), bundle.flavor
            built = (
                current(bundle.arch, bundle.components, store, compression=form, flavor=flavor, merged=merged)
                for merged in (False, True)
            )
            manifest = next((one for one in built if one and one.digest == bundle.digest), None)
            if manifest is None:
                raise NotFoundError(f"The bundle {bundle.digest} is not built here any more.")
            made[bundle.digest] = make(manifest, Lock.of(Recipe.builtin()), store)
        return made[bundle.digest]

    return of


def _form(bundle: Bundle) -> str:
    """The form of a bundle's layers, as ``--compression`` calls it."""
    if any(layer.compression == "zstd" for layer in bundle.layers):
        return "zstd"
    return "estargz" if any(layer.annotations for layer in bundle.layers) else "gzip"


@dataclass(frozen=True)
class Additions:
    """What ``graft`` adds to images that it has pushed; for many threads."""

    attested: bool
    sign_with: str | None
    sbom: Sbom

    def add(
        self,
        image: Reference,
        digest: str,
        bundles: Mapping[str, Bundle],
        access: Access,
        is_new: bool = True,
    ) -> None:
        """Attaches and signs; what an image that is not new has already is not added again."""
        from graftbox.image.attestation import attest, is_signed

        if self.attested:
            attest(image, digest, bundles, self.sbom, access)
        if self.sign_with and (is_new or not is_signed(image, digest, access)):
            name = image.image_name
            sign(f"{name.host}/{name.repository}@{digest}", self.sign_with)


def signer(text: str) -> list[str]:
    """The command that signs; `UnsupportedError` if its program is not installed."""
    from graftbox.errors import UnsupportedError, UsageError

    words = shlex.split(text)
    if not words:
        raise UsageError("--sign-with needs a program, such as cosign or notation.")
    if shutil.which(words[0]) is None:
        raise UnsupportedError(
            f"The program {words[0]} is not installed here, so nothing was signed. Install it, or leave "
            "--sign-with out."
        )
    return [*words, *(SIGNERS.get(words[0], ()) if len(words) == 1 else ())]


def sign(image: str, text: str) -> None:
    """Runs a signing program on ``HOST/NAME@DIGEST``; its own output goes to standard error."""
    from graftbox.errors import TransportError

    command = [*signer(text), image]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    click.echo(done.stdout, err=True, nl=False)
    if done.returncode:
        raise TransportError(f"{image} was made but not signed: {command[0]} ended with {done.returncode}.")

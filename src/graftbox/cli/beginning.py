"""How a built image begins: entrypoint, command and labels as a graft of the same base would write them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graftbox.errors import GraftboxError, UnsupportedError

if TYPE_CHECKING:
    from graftbox.cli.ways import Wanted
    from graftbox.image.graft import Bundle
    from graftbox.image.reference import Reference
    from graftbox.store import Store


def beginning(
    base: Reference, bundle: Bundle | None, wanted: Wanted, store: Store
) -> Mapping[str, Any] | None:
    """The ``config`` part of the graft's config; None if nobody here can read the base and nothing needs it.

    Raises `UnsupportedError` if the base's entrypoint is to be kept and cannot be read.
    """
    from graftbox.image.reference import Reference, Transport

    places = [base]
    if base.transport is Transport.REGISTRY and wanted.engine == "docker":
        places.append(Reference(Transport.DOCKER_DAEMON, name=base.name))
    problem = ""
    for place in places:
        try:
            return _grafted(base, place, bundle, wanted, store)
        except GraftboxError as error:
            problem = problem or str(error)
    if wanted.keep_entrypoint:
        raise UnsupportedError(f"The entrypoint of {base} is to be kept, but cannot be read: {problem}")
    return None


def _grafted(
    base: Reference, place: Reference, bundle: Bundle | None, wanted: Wanted, store: Store
) -> Mapping[str, Any]:
    from graftbox.image import graft as images
    from graftbox.image.platforms import architecture, machine_architecture, select
    from graftbox.image.reference import Transport
    from graftbox.image.transports import open_source

    arch = architecture(wanted.platform) if wanted.platform else machine_architecture()
    # Which bundle it is says another label; of the graft only what is about the base counts.
    stand_in = bundle or images.Bundle(arch, "", "", (), ())
    options = images.Options(base.portable, user=wanted.user, keep_entrypoint=wanted.keep_entrypoint)
    if base.transport is Transport.SCRATCH:
        image = images.scratch(arch)
    else:
        with contextlib.closing(open_source(place, store, wanted.access, whole=False)) as source:
            top = source.resolve()
            image = select(source, arch, str(base))
        digest = top.config.digest if source.synthetic else top.digest
        options = dataclasses.replace(options, base_digest=digest)
    config = json.loads(images.graft(image, dataclasses.replace(stand_in, layers=()), options).config)
    process: Mapping[str, Any] = config["config"]
    return process

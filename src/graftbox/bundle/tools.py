"""Programs that graftbox itself runs where the machine has none: the recipe ``tools``.

``python -m graftbox.bundle.tools`` fetches them ahead of time.
"""

from __future__ import annotations

import sys

from graftbox.bundle import native
from graftbox.bundle.fetch import fetch
from graftbox.bundle.lock import Lock, LockedPackage
from graftbox.bundle.progress import Progress
from graftbox.bundle.recipe import Recipe
from graftbox.bundle.sources import Sources
from graftbox.errors import GraftboxError
from graftbox.store import Store


def bubblewrap(
    store: Store | None = None, sources: Sources | None = None, progress: Progress | None = None
) -> list[str]:
    """The argv that starts Debian's bubblewrap, fetched and unpacked on first use; append its arguments."""
    return program("bubblewrap", "bwrap", store or Store(), sources, progress)


def program(
    component: str, name: str, store: Store, sources: Sources | None = None, progress: Progress | None = None
) -> list[str]:
    """The argv that starts the program ``name`` of a component of the tools recipe."""
    recipe = Recipe.builtin("tools")
    entries = [
        entry
        for entry in Lock.of(recipe).entries(native.architecture(), [component])
        if isinstance(entry, LockedPackage)
    ]
    place = native.folder(store, entries)
    if not place.is_dir():
        paths = fetch(entries, store, sources or Sources.find(), progress, recipe=recipe)
        native.unpack(store, {entry: paths[entry] for entry in entries})
    return native.command(place, name)


if __name__ == "__main__":
    try:
        bubblewrap()
    except GraftboxError as error:
        sys.exit(f"graftbox: {error}")

"""Licences: each text once, and a list of the source packages that Debian's programs were built from."""

from __future__ import annotations

import re
from collections.abc import Iterable

from graftbox.bundle.content import Content, File, Link, files
from graftbox.bundle.lock import Entry, LockedPackage

COPYRIGHT = re.compile(r"share/doc/([^/]+)/copyright")
HEAD = """\
Programs and libraries of this layer of /openhands come from the Debian packages below. Their licences are in
/openhands/share/doc/PACKAGE/copyright. Paths in them were replaced in place and symbols were stripped;
nothing else was changed. The complete source of each is the Debian source package named beside it:

    apt-get source SOURCE=VERSION

finds it in Debian's archive, or, after it has left that, in the snapshot archive of its day.

"""


def tidy(content: Content, layer: str, entries: Iterable[Entry]) -> None:
    """Turns further copies of a licence text into links, and adds the layer's list of sources."""
    first: dict[bytes, str] = {}
    used = set()
    for path, file in list(files(content)):
        used.add(file.origin)
        if match := COPYRIGHT.fullmatch(path):
            donor = first.setdefault(file.data, match[1])
            if donor != match[1]:
                content[path] = Link(f"../{donor}/copyright")
    packages = {
        f"{entry.name} {entry.version}": entry.source for entry in entries if isinstance(entry, LockedPackage)
    }
    lines = [f"{origin}: {source}" for origin, source in sorted(packages.items()) if origin in used]
    if lines:
        content[f"share/doc/SOURCES.{layer}"] = File((HEAD + "\n".join(lines) + "\n").encode())

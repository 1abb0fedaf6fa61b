"""Where plugins come from: the server itself, folders with a manifest, and Python entry points.

A plugin's folder has the plugin's name, and an entry point's name is the plugin's, so that a name can be
checked before the server listens without reading or importing anything of the plugin. Entry points are read
from the metadata's files: `importlib.metadata` takes longer to import than the server to start, and these
files are also there in a frozen program.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftbox.errors import FormatError
from graftbox.server.plugins.manifest import MANIFEST, NAME, Manifest, parse, read

BUNDLED = Path("/openhands/plugins")
PACKAGES = "site-packages"
"""Below a folder of plugins: distributions with entry points, put there by ``pip install --target``."""
GROUP = "graftbox.plugins"


@dataclass(frozen=True)
class Place:
    """Where one plugin is: ``folder`` with its manifest, or ``value``, the object an entry point names, to be
    imported from the folder ``packages``.
    """

    name: str
    folder: Path | None = None
    value: str = ""
    distribution: str = ""
    packages: str = ""

    @property
    def is_code(self) -> bool:
        """Whether something is imported to read the manifest; else it is a file."""
        return ":" in self.value or "." in self.value


def places(folders: tuple[str, ...]) -> dict[str, Place]:
    """Every plugin that is not the server's own, by name; the first one of a name counts. Blocking."""
    found: dict[str, Place] = {}
    folders = (*folders, str(BUNDLED))
    for place in (*_in_folders(folders), *_entry_points(folders)):
        found.setdefault(place.name, place)
    return found


def _in_folders(folders: tuple[str, ...]) -> Iterator[Place]:
    for folder in map(Path, folders):
        with contextlib.suppress(OSError):
            for path in sorted(folder.iterdir()):
                if NAME.fullmatch(path.name) and (path / MANIFEST).is_file():
                    yield Place(path.name, path)


def _entry_points(folders: tuple[str, ...]) -> Iterator[Place]:
    for folder in dict.fromkeys((*sys.path, *(f"{folder}/{PACKAGES}" for folder in folders))):
        if not Path(folder).is_dir():
            continue
        for path in sorted(Path(folder).glob("*.dist-info/entry_points.txt")):
            with contextlib.suppress(OSError, ValueError):
                text = path.read_text(encoding="utf-8")
                distribution = path.parent.name.removesuffix(".dist-info")
                for name, value in _group(text).items():
                    if NAME.fullmatch(name):
                        yield Place(name, None, value, distribution, folder)


def _group(text: str) -> Mapping[str, str]:
    """The entries of our group in an ``entry_points.txt``."""
    inside, found = False, {}
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{GROUP}]"
        elif inside and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            found[name.strip()] = value.partition("[")[0].strip()
    return found


def load(place: Place, seconds: float) -> Manifest:
    """The manifest at ``place``; raises `FormatError`. Blocking; for ``seconds`` where code is imported."""
    if place.folder is not None:
        manifest = read(place.folder / MANIFEST, f"folder {place.folder}")
    else:
        manifest = _from_code(place, seconds)
    if manifest.name != place.name:
        raise FormatError(f"The plugin {place.name} calls itself {manifest.name}; the two must agree.")
    return manifest


def _from_code(place: Place, seconds: float) -> Manifest:
    """An entry point names a package with a manifest in it, or a mapping in a module, or what returns one."""
    module, _, name = place.value.partition(":")
    source = f"entry point of {place.distribution}"
    result: Future[Any] = Future()

    def work() -> None:
        try:
            if place.packages and place.packages not in sys.path:
                sys.path.append(place.packages)  # last: nothing in it takes the place of the server's own
            result.set_result(_object(module, name) if name else _folder(module))
        except BaseException as error:
            result.set_exception(error)

    # A thread that nobody waits for at the end: an import may hang.
    threading.Thread(target=work, name=f"plugin {place.name}", daemon=True).start()
    try:
        given = result.result(seconds)
    except TimeoutError as error:
        raise FormatError(f"Importing {place.value} did not end within {seconds:g} seconds.") from error
    except BaseException as error:
        raise FormatError(f"{place.value} can't be imported: {type(error).__name__}: {error}.") from error
    if isinstance(given, Path):
        return read(given / MANIFEST, source)
    return parse(given, str(Path(sys.modules[module].__file__ or "/").parent), source, place.value)


def _object(module: str, name: str) -> Any:
    from importlib import import_module

    value: Any = import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value() if callable(value) else value


def _folder(module: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"there is no package {module}")
    return Path(spec.submodule_search_locations[0])

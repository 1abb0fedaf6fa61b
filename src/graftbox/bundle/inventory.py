"""Where a bundle's bytes are: every file's size, its share of the compressed layer, and its package.

Written down for each layer when it is packed, because a layer does not say which package a file is from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftbox.bundle.content import Content, File, Folder
from graftbox.bundle.manifest import BundleManifest, Layer
from graftbox.errors import NotFoundError
from graftbox.store import Store, storage_errors

OURS = "graftbox"
"""The package of what recipes write themselves: scripts, links, folders."""
QUICK = 1
"""The level at which single files are compressed to learn their shares: what decides is not the level."""


@dataclass(frozen=True)
class Row:
    """One file or link. ``size`` in bytes; ``compressed`` is its estimated share of the layer's blob."""

    path: str
    size: int
    compressed: int
    package: str
    layer: str = ""


@dataclass
class Branch:
    """A folder, package or layer with all that is below it; ``files`` counts files and links."""

    name: str
    size: int = 0
    compressed: int = 0
    files: int = 0
    children: dict[str, Branch] = field(default_factory=dict)

    def sorted(self) -> list[Branch]:
        """What is directly below it, the largest first."""
        return sorted(self.children.values(), key=lambda child: (-child.size, child.name))

    def facts(self, depth: int) -> dict[str, object]:
        """As in JSON, with ``depth`` further levels."""
        facts: dict[str, object] = {
            "name": self.name,
            "size": self.size,
            "compressed": self.compressed,
            "files": self.files,
        }
        if depth and self.children:
            facts["children"] = [child.facts(depth - 1) for child in self.sorted()]
        return facts


def record(layer: Layer, content: Content, store: Store) -> None:
    """Writes down what a layer holds."""
    import deflate

    from graftbox.bundle.parallel import in_order

    nodes = [(path, node) for path, node in sorted(content.items()) if not isinstance(node, Folder)]

    def weight(item: tuple[str, object]) -> int:
        node = item[1]
        return len(deflate.deflate_compress(node.data, QUICK)) if isinstance(node, File) and node.data else 0

    weights = list(in_order(weight, nodes))
    scale = layer.compressed_size / (sum(weights) or 1)
    rows = [
        [path, len(node.data), round(share * scale), node.origin or OURS]
        if isinstance(node, File)
        else [path, 0, 0, OURS]
        for (path, node), share in zip(nodes, weights, strict=True)
    ]
    _write(layer, rows, store)


def join(layer: Layer, parts: Iterable[Layer], store: Store) -> None:
    """Writes down that a layer holds what these hold."""
    _write(layer, [row for part in parts for row in _read(part, store)], store)


def _write(layer: Layer, rows: list[list[Any]], store: Store) -> None:
    store.folder("inventories")
    with store.temporary_file() as (stream, temporary):
        stream.write(json.dumps(rows, separators=(",", ":")).encode())
        stream.close()
        with storage_errors(store.root):
            temporary.replace(_place(layer, store))


def _place(layer: Layer, store: Store) -> Path:
    return store.root / "inventories" / f"{layer.digest.removeprefix('sha256:')}.json"


def rows(manifest: BundleManifest, store: Store) -> Iterator[Row]:
    """Every file and link of a bundle, layer by layer; `NotFoundError` if a layer's record is gone."""
    for layer in manifest.layers:
        for path, size, compressed, package in _read(layer, store):
            yield Row(path, size, compressed, package, layer.name)


def _read(layer: Layer, store: Store) -> list[list[Any]]:
    try:
        found: list[list[Any]] = json.loads(_place(layer, store).read_bytes())
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"Nobody has written down what the layer {layer.name} holds. Delete "
            f"{store.blob_path(layer.digest)} and run `graftbox bundle build` with the same options."
        ) from error
    return found


def by_folder(row: Row) -> list[str]:
    """A row's place in the tree of layers and folders."""
    return [row.layer, *row.path.split("/")]


def by_package(row: Row) -> list[str]:
    """A row's place in the tree of layers and packages."""
    return [row.layer, row.package, *row.path.split("/")]


def tree(found: Iterator[Row], name: str, packages: bool = False) -> Branch:
    """All rows as a tree: layers, then packages if they are asked for, then folders."""
    root = Branch(name)
    for row in found:
        branch = root
        for part in ["", *(by_package if packages else by_folder)(row)]:
            if part:
                branch = branch.children.setdefault(part, Branch(part))
            branch.size += row.size
            branch.compressed += row.compressed
            branch.files += 1
    return root


def lines(branch: Branch, depth: int, least: int = 0) -> Iterator[tuple[str, Branch]]:
    """(indented name, branch) down to ``depth`` levels; what is smaller than ``least`` bytes is summed up."""
    yield from _lines(branch, "", "", depth, least)


def _lines(branch: Branch, head: str, tail: str, depth: int, least: int) -> Iterator[tuple[str, Branch]]:
    yield head + branch.name, branch
    if not depth:
        return
    shown = [child for child in branch.sorted() if child.size >= least]
    small = [child for child in branch.sorted() if child.size < least]
    if len(small) > 1 or (small and not shown):
        rest = Branch(f"({len(small)} smaller)")
        for child in small:
            rest.size += child.size
            rest.compressed += child.compressed
            rest.files += child.files
        shown.append(rest)
    else:
        shown += small
    for child in shown:
        last = child is shown[-1]
        yield from _lines(
            child, tail + ("└── " if last else "├── "), tail + ("    " if last else "│   "), depth - 1, least
        )


def page(manifest: BundleManifest, store: Store) -> bytes:
    """One HTML file with a treemap of the bundle; needs nothing else to be shown."""
    packages: dict[str, int] = {}
    layers = [layer.name for layer in manifest.layers]
    table = [
        [
            row.path,
            row.size,
            row.compressed,
            layers.index(row.layer),
            packages.setdefault(row.package, len(packages)),
        ]
        for row in rows(manifest, store)
    ]
    data = {
        "title": f"graftbox bundle {manifest.digest[:19]} ({manifest.arch})",
        "layers": layers,
        "packages": list(packages),
        "files": table,
    }
    # No "</script>" may end the block early (HTML standard, 4.12.1.3).
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    template = Path(__file__).with_name("treemap.html").read_text(encoding="utf-8")
    return template.replace("/*DATA*/null", text).encode()

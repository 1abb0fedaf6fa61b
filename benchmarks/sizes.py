"""How large the bundle's layers are, as gzip and as zstd; built first where they are not."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Figure
from graftbox.bundle import build
from graftbox.bundle.manifest import Layer

MEGA = 1e6
TARGETS = {"gzip": 250.0, "zstd": 195.0}


def figures() -> list[Figure]:
    """Compressed MB of 10^6 bytes; the layer with Node, which browser and vscode share, stands for itself."""
    gzip, zstd = (build.build(compression=form).layers for form in TARGETS)
    return [
        *(
            _figure(f"all components, {form}", layers, TARGETS[form])
            for form, layers in zip(TARGETS, (gzip, zstd), strict=True)
        ),
        _figure("`core` and the server, gzip", _of(gzip, "core", "server"), 40),
        _figure("`browser` without Node, zstd", _of(zstd, "browser"), 95),
        _figure("`browser` without Node, gzip", _of(gzip, "browser")),
        _figure("`vscode` without Node, zstd", _of(zstd, "vscode"), 60),
        _figure("`vscode` without Node, gzip", _of(gzip, "vscode"), 60),
        _figure("Node, gzip", _of(gzip, "browser+vscode")),
        Figure("all components, unpacked", "MB", (sum(layer.size for layer in gzip) / MEGA,)),
    ]


def _of(layers: Sequence[Layer], *names: str) -> list[Layer]:
    return [layer for layer in layers if layer.name in names]


def _figure(title: str, layers: Sequence[Layer], target: float | None = None) -> Figure:
    return Figure(title, "MB", (sum(layer.compressed_size for layer in layers) / MEGA,), target)

"""What comes of one step of an agent: what it did, and what is to be seen now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """What a step has come to; ``error`` is empty when it did what it should. ``picture`` and ``marked`` are
    PNGs in base64, ``text`` is the page's, ``tree_text`` what an agent reads of ``tree``; ``downloads`` are
    the paths of files, ``notes`` say what else happened.
    """

    url: str
    urls: list[str]
    active: int
    focused: str | None
    error: str
    tree: dict[str, Any]
    tree_text: str
    properties: dict[str, Any]
    text: str
    picture: str
    marked: str
    downloads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

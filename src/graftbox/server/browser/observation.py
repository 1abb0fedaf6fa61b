"""What is to be seen of a page: its accessibility tree with ids, where its elements are, a picture, its text.

The results are those of browsergym-core's observations, which is the model: the same tree, the same ids, the
same properties of elements. https://github.com/ServiceNow/BrowserGym
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graftbox.server.browser.errors import BrowserError
from graftbox.server.browser.marking import ATTRIBUTE, HITS_MS, LEAST, MARK, MOST, PREFIX, UNMARK
from graftbox.server.browser.marks import overlay
from graftbox.server.browser.outline import LONGEST, OUTLINE, Outline
from graftbox.server.browser.text import as_text

if TYPE_CHECKING:
    from playwright.async_api import Frame, Page

    from graftbox.server.browser.sight import Sight

VISIBILITY_MS = 1000
TRIES = 5
UNMARK_SECONDS = 1.0
RETRY_SECONDS = 0.2
_SNAPSHOT = {"computedStyles": [], "includeDOMRects": True, "includePaintOrder": True}
_FRAME = re.compile(r"[a-z][a-zA-Z]*|")
_DATA = re.compile(rf"{PREFIX}([a-zA-Z0-9]+)\s?(.*)", re.DOTALL)
# What goes wrong when a frame is replaced while it is looked at.
_PASSING = (
    "Frame was detached",
    "Frame with the given frameId is not found",
    "Execution context was destroyed",
    "Frame has been detached",
    "Cannot read properties of undefined",
    "Inspected target navigated or closed",
)

Tree = dict[str, Any]
Marks = dict[str, tuple[float, bool]]
"""By id: how much of an element is to be seen, from 0 to 1, and whether it is in the set of marks."""
Properties = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Observation:
    """``tree`` as the protocol's accessibility tree, with ``browsergym_id``; ``properties`` by id; ``text``
    with Markdown's marks; ``picture`` is a PNG in base64, ``marked`` that with the set of marks; ``changed``:
    the page may have become another while it was looked at; ``notes`` say what is left out of it.
    """

    tree: Tree
    properties: Properties
    text: str
    focused: str | None
    picture: str
    marked: str
    changed: bool = False
    notes: tuple[str, ...] = ()


@dataclass
class _Marked:
    """What `MARK` has found in all ``frames``, by the id of what they are in; ``brief``: nothing but ids."""

    brief: bool
    frames: dict[str, Frame] = field(default_factory=dict)
    marks: Marks = field(default_factory=dict)
    cut: bool = False
    late: bool = False

    def notes(self) -> Iterator[str]:
        if self.cut:
            yield (
                f"The page is too large to be looked at as a whole: this is an outline of its first {MOST} "
                "elements, and only these have a bid."
            )
        elif self.brief:
            yield "The page took too long to be looked at as a whole: this is an outline of it."
        if self.late:
            yield "Not all elements are in the set of marks, as there are too many."


async def observe(page: Page, sight: Sight, *, brief: bool = False) -> Observation:
    """The page as it is now; ``brief``: an outline of it. Raises Playwright's errors and `BrowserError`."""
    from playwright.async_api import Error

    for left in reversed(range(TRIES)):
        try:
            return await _observe(page, sight, brief)
        except (Error, BrowserError) as error:
            if not left or not any(text in str(error) for text in _PASSING):
                raise
        await asyncio.sleep(RETRY_SECONDS)
    raise AssertionError


async def _observe(page: Page, sight: Sight, brief: bool) -> Observation:
    found = _Marked(brief)
    sight.answered = False
    # What is marked does not show in the picture.
    shot = {"format": "png", "optimizeForSpeed": True}
    picture = asyncio.ensure_future(sight.ask("Page.captureScreenshot", shot))
    try:
        focused = await _mark(page.main_frame, "", found, VISIBILITY_MS)
        sight.answered = True
        look = _outline if brief or found.cut else _whole
        tree, properties, text, marked = await look(page, sight, found, picture)
    finally:
        picture.cancel()
        # A page that does not answer is not waited for: it may be why this is cancelled.
        tasks = [asyncio.ensure_future(_unmark(frame)) for frame in found.frames.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=UNMARK_SECONDS)
    changed = any(not task.done() or task.result() for task in tasks)
    data = picture.result()["data"]
    return Observation(tree, properties, text, focused, data, marked, changed, tuple(found.notes()))


Seen = tuple[Tree, Properties, str, str]
"""Tree, properties and text, and the picture with its marks."""


async def _whole(page: Page, sight: Sight, found: _Marked, picture: asyncio.Future[Any]) -> Seen:
    snapshot = asyncio.ensure_future(sight.ask("DOMSnapshot.captureSnapshot", _SNAPSHOT))
    tree = asyncio.ensure_future(_tree(sight, alone=not page.main_frame.child_frames))
    try:
        # The tree takes longest; all else is made in the meantime.
        places = properties(await snapshot, found.marks)
        text = await asyncio.to_thread(lambda: as_text(content(snapshot.result())))
        marked = await asyncio.to_thread(overlay, (await picture)["data"], places)
        return await tree, places, text, marked
    finally:
        snapshot.cancel()
        tree.cancel()
        await asyncio.gather(snapshot, tree, return_exceptions=True)


async def _outline(page: Page, sight: Sight, found: _Marked, picture: asyncio.Future[Any]) -> Seen:
    inside = {
        name: await frame.evaluate(OUTLINE, [ATTRIBUTE, LONGEST]) for name, frame in found.frames.items()
    }
    outline = Outline(inside, found.marks)
    text = await asyncio.to_thread(lambda: as_text(outline.content()))
    marked = await asyncio.to_thread(overlay, (await picture)["data"], outline.properties)
    return {"nodes": outline.nodes}, outline.properties, text, marked


async def _unmark(frame: Frame) -> bool:
    """Whether anything else has changed since the frame was marked, as far as can be told."""
    with contextlib.suppress(Exception):
        return bool(await frame.evaluate(UNMARK, PREFIX))
    return True


async def _mark(frame: Frame, name: str, found: _Marked, patience: int) -> str | None:
    """Mark this frame and those in it; returns the id of what has the focus, "" for nothing."""
    found.frames[name] = frame
    left = max(MOST - len(found.marks), LEAST)
    told = await frame.evaluate(MARK, [name, ATTRIBUTE, PREFIX, patience, left, found.brief, HITS_MS])
    found.cut = found.cut or told["cut"]
    found.late = found.late or told["late"]
    for key, visible, marked in zip(told["ids"], told["visible"].split(), told["marked"], strict=True):
        found.marks[key] = (float(visible), marked == "1")
    focused: str | None = told["focused"] if told["anything"] else ""
    for child in frame.child_frames:
        key = await _name_of(child)
        if key is None or not _FRAME.fullmatch(key):
            continue
        # Of what is not to be seen, Chromium never tells how much is to be seen.
        least = patience if found.marks.get(key, (0.0, False))[0] else 0
        inner = await _mark(child, key, found, least)
        if key == focused:
            focused = inner
    return focused


async def _name_of(frame: Frame) -> str | None:
    """The id of the element that the frame is in; None for a frame that can't be marked."""
    if frame.is_detached():
        return None
    element = await frame.frame_element()
    if await element.content_frame() != frame:
        return None  # a viewer of documents in <embed>
    sandbox = await element.get_attribute("sandbox")
    if sandbox is not None and "allow-scripts" not in sandbox.split():
        return None
    return await element.get_attribute(ATTRIBUTE)


async def _tree(sight: Sight, *, alone: bool) -> Tree:
    """The accessibility trees of the page and of the frames in it, as one."""
    if alone:
        nodes = (await sight.ask("Accessibility.getFullAXTree"))["nodes"]
        for node in nodes:
            _name(node)
        return {"nodes": nodes}
    root = (await sight.ask("Page.getFrameTree"))["frameTree"]
    names = []
    waiting = [root]
    while waiting:
        frame = waiting.pop()
        waiting.extend(frame.get("childFrames", []))
        names.append(frame["frame"]["id"])
    answers = await asyncio.gather(
        *(sight.ask("Accessibility.getFullAXTree", {"frameId": name}) for name in names)
    )
    trees = {name: answer["nodes"] for name, answer in zip(names, answers, strict=True)}
    for nodes in trees.values():
        for node in nodes:
            _name(node)
    merged: list[dict[str, Any]] = []
    for nodes in trees.values():
        merged.extend(nodes)
        for node in nodes:
            if node["role"]["value"] != "Iframe":
                continue
            described = await sight.ask("DOM.describeNode", {"backendNodeId": node["backendDOMNodeId"]})
            inside = trees.get(described.get("node", {}).get("frameId"))
            if inside:
                node["childIds"].append(inside[0]["nodeId"])
    return {"nodes": merged}


def _name(node: dict[str, Any]) -> None:
    """Take the id out of the node's ARIA data, where `MARK` has put it."""
    found = None
    for number, each in enumerate(node.get("properties", ())):
        if each["name"] == "roledescription":
            found, own = _data(each["value"]["value"])
            each["value"]["value"] = own
            if not own:
                del node["properties"][number]
            break
    if "description" in node:
        other, own = _data(node["description"]["value"])
        node["description"]["value"] = own
        if not own:
            del node["description"]
        found = found or other
    if found:
        node["browsergym_id"] = found


def _data(text: str) -> tuple[str | None, str]:
    match = _DATA.fullmatch(text)
    return (match.group(1), match.group(2)) if match else (None, text)


def properties(snapshot: dict[str, Any], marks: Marks) -> Properties:
    """By id: ``visibility``, ``bbox`` (x, y, width, height on the page) or None, ``clickable``,
    ``set_of_marks``; in the order of the documents, frames behind what they are in.
    """
    strings = snapshot["strings"]
    name = strings.index(ATTRIBUTE) if ATTRIBUTE in strings else -1
    found: Properties = {}
    for number, (left, top) in _places(snapshot).items():
        document = snapshot["documents"][number]
        nodes, layout = document["nodes"], document["layout"]
        clickable = set(nodes["isClickable"]["index"])
        boxes: dict[int, list[float] | None] = {}
        rows = zip(layout["nodeIndex"], layout["bounds"], layout["clientRects"], strict=True)
        for node, bounds, rectangle in rows:
            # Without a rectangle it is not drawn.
            boxes[node] = [bounds[0] + left, bounds[1] + top, *bounds[2:]] if rectangle else None
        for node, attributes in enumerate(nodes["attributes"]):
            for at in range(0, len(attributes), 2):
                if attributes[at] == name and (key := strings[attributes[at + 1]]):
                    visibility, marked = marks.get(key, (None, None))
                    found[key] = {
                        "visibility": visibility,
                        "bbox": boxes.get(node),
                        "clickable": node in clickable,
                        "set_of_marks": marked,
                    }
    return found


def _places(snapshot: dict[str, Any]) -> dict[int, tuple[float, float]]:
    """By document, where its beginning is on the page, scrolled as it is."""
    documents = snapshot["documents"]
    parents: dict[int, tuple[int, int] | None] = {0: None}
    places: dict[int, tuple[float, float]] = {}
    waiting = [0]
    while waiting:
        number = waiting.pop()
        inner = documents[number]["nodes"]["contentDocumentIndex"]
        for node, child in zip(inner["index"], inner["value"], strict=True):
            parents[child] = (number, node)
            waiting.append(child)
        left = top = 0
        parent = parents[number]
        if parent is not None:
            layout = documents[parent[0]]["layout"]
            with contextlib.suppress(ValueError):
                bounds = layout["bounds"][layout["nodeIndex"].index(parent[1])]
                left, top = places[parent[0]][0] + bounds[0], places[parent[0]][1] + bounds[1]
        document = documents[number]
        places[number] = (left - document["scrollOffsetX"], top - document["scrollOffsetY"])
    return {number: places[number] for number in parents}


def content(snapshot: dict[str, Any], number: int = 0) -> Iterator[tuple[str, Any]]:
    """A document as ``("start", (name, attributes))``, ``("end", name)`` and ``("text", text)``, with those
    of its frames inside.
    """
    document = snapshot["documents"][number]["nodes"]
    strings = snapshot["strings"]
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(document["parentIndex"]):
        children.setdefault(parent, []).append(node)
    inner = dict(
        zip(document["contentDocumentIndex"]["index"], document["contentDocumentIndex"]["value"], strict=True)
    )
    # Text is shown where its parent is an element; documents and shadow roots pass theirs over.
    stack: list[tuple[int, bool, bool]] = [(0, False, False)]
    while stack:
        node, passed, leaving = stack.pop()
        kind = document["nodeType"][node]
        name = strings[document["nodeName"][node]].lower().strip() if kind == 1 else ""
        if leaving:
            yield "end", name
            continue
        if kind in (3, 4):
            value = document["nodeValue"][node]
            if not passed and value >= 0:
                yield "text", strings[value]
            continue
        if kind == 1:
            indexes = document["attributes"][node]
            pairs = zip(indexes[::2], indexes[1::2], strict=True)
            yield (
                "start",
                (name, {strings[key]: strings[value] if value >= 0 else None for key, value in pairs}),
            )
            stack.append((node, False, True))
        if node in inner:
            yield from content(snapshot, inner[node])
        stack.extend((child, kind != 1, False) for child in reversed(children.get(node, ())))

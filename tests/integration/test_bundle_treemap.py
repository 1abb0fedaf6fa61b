"""The treemap of `graftbox bundle show --html`, drawn and clicked in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.integration.conftest import program

from graftbox.bundle import inventory, layers
from graftbox.bundle.content import Content, File, Link
from graftbox.bundle.manifest import BundleManifest
from graftbox.store import Store

# Sizes that no compression changes much: the share of a file is by what is left of it.
NOISE = bytes(byte * 167 % 251 for byte in range(251)) * 400
LAYERS: dict[str, Content] = {
    "core": {
        "lib/libbig.so": File(NOISE, origin="libbig 1.0"),
        "lib/python/<b>odd&name.py": File(NOISE[:40_000], origin="odd 2</script>"),
        "bin/run": File(NOISE[:20_000], executable=True),
        "bin/alias": Link("run"),
    },
    "web": {"browser/chromium": File(NOISE[:80_000], origin="chromium 9")},
}
# What is written on the canvas, besides being written.
RECORD = """
window.written = [];
const fillText = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
  written.push(text);
  return fillText.call(this, text, ...place);
};
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("treemap")
    store = Store(folder / "cache")
    made = []
    for name, content in LAYERS.items():
        made.append(layers.write(name, name, content, store))
        inventory.record(made[-1], content, store)
    manifest = BundleManifest("amd64", "tree", "sha256:1", tuple(LAYERS), tuple(made))
    path = folder / "map.html"
    path.write_bytes(inventory.page(manifest, store))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium-headless-shell"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_default_timeout(60_000)
    problems: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script(RECORD)
    page.goto(file.as_uri())
    yield page
    page.close()
    assert problems == []
    assert asked == [file.as_uri()]


def boxes(page: Page) -> dict[str, dict[str, Any]]:
    """What is drawn, by name."""
    found = page.evaluate(
        "boxes.map(({node, x, y, width, height, level}) => "
        "({name: node.name, parent: node.parent?.name, size: node.size, x, y, width, height, level}))"
    )
    return {box["name"]: box for box in found}


def click(page: Page, name: str) -> None:
    """A click into the lower right corner of a box, where nothing is written."""
    box, canvas = boxes(page)[name], page.locator("canvas").bounding_box()
    assert canvas is not None
    page.mouse.click(canvas["x"] + box["x"] + box["width"] - 4, canvas["y"] + box["y"] + box["height"] - 4)


def where(page: Page) -> str:
    return " ".join(page.locator("nav").inner_text().split())


def test_every_box_is_drawn_inside_of_its_parent_and_has_its_name(page: Page) -> None:
    drawn = boxes(page)
    files = {path.rpartition("/")[2] for content in LAYERS.values() for path in content} - {"alias"}
    assert set(drawn) == {"/openhands", "core", "web", "browser", "lib", "python", "bin"} | files
    for box in drawn.values():
        if box["level"]:
            parent = drawn[box["parent"]]
            assert parent["x"] <= box["x"]
            assert parent["y"] <= box["y"]
            assert box["x"] + box["width"] <= parent["x"] + parent["width"] + 0.01
            assert box["y"] + box["height"] <= parent["y"] + parent["height"] + 0.01
    written = page.evaluate("written")
    for name in ("core", "web", "libbig.so", "chromium", "<b>odd&name.py"):
        assert any(text.startswith(name) for text in written), written
    colours = page.evaluate(
        "new Set(new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
    )
    assert colours > 10  # six kinds of boxes, edges, and smooth letters


def test_a_larger_file_has_a_larger_box(page: Page) -> None:
    page.select_option("#area", "size")
    drawn = boxes(page)
    areas = {name: drawn[name]["width"] * drawn[name]["height"] for name in ("core", "web")}
    sizes = {name: drawn[name]["size"] for name in areas}
    assert areas["core"] / areas["web"] == pytest.approx(sizes["core"] / sizes["web"], rel=0.01)
    assert where(page) == "/openhands"


def test_clicks_go_deeper_and_escape_and_the_path_go_back(page: Page) -> None:
    click(page, "libbig.so")
    assert where(page) == "/openhands / core"
    assert "chromium" not in boxes(page)
    click(page, "libbig.so")
    assert where(page) == "/openhands / core / lib"
    click(page, "libbig.so")  # a file has nothing deeper
    assert where(page) == "/openhands / core / lib"
    page.keyboard.press("Escape")
    assert where(page) == "/openhands / core"
    page.get_by_role("button", name="/openhands").click()
    assert where(page) == "/openhands"
    assert "chromium" in boxes(page)


def test_pointing_at_a_file_tells_its_size_and_package(page: Page) -> None:
    box, canvas = boxes(page)["<b>odd&name.py"], page.locator("canvas").bounding_box()
    assert canvas is not None
    page.mouse.move(canvas["x"] + box["x"] + box["width"] / 2, canvas["y"] + box["y"] + box["height"] / 2)
    text = page.locator("footer").inner_text()
    assert "/openhands / core / lib / python / <b>odd&name.py" in text
    assert "40.0 kB unpacked" in text
    assert "odd 2</script>" in text


def test_it_can_be_by_package_and_is_drawn_anew_in_a_window_of_another_size(page: Page) -> None:
    page.select_option("#by", "package")
    assert {"libbig 1.0", "odd 2</script>", "graftbox", "chromium 9"} <= set(boxes(page))
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function("canvas.clientWidth < 500 && boxes[0].width === canvas.clientWidth")
    assert "chromium" in boxes(page)

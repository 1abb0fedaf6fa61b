"""Run by the bundle's Python inside a sandbox: photographs text and prints, as JSON, what is in the pictures.

``guest_browser.py PROGRAM PREFIX``: drives PROGRAM by Playwright. The answer has the browser's version, the
number of dark pixels for each text, and the libraries that its processes have mapped from outside of PREFIX.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

TEXTS = ("", "iiiiii", "WWWWWW")
COUNT = """async (png) => {
    const image = new Image();
    image.src = "data:image/png;base64," + png;
    await image.decode();
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, image.width, image.height);
    let dark = 0;
    for (let i = 0; i < data.length; i += 4) dark += Math.max(data[i], data[i + 1], data[i + 2]) < 100;
    return dark;
}"""


async def photographed(program: str, prefix: str) -> dict[str, Any]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--disable-dev-shm-usage"])
        page = await browser.new_page(viewport={"width": 400, "height": 100})
        dark = []
        for text in TEXTS:
            await page.set_content(f"<body style='font: 40px sans-serif'>{text}")
            png = base64.b64encode(await page.screenshot()).decode()
            dark.append(await page.evaluate(COUNT, png))
        found = {"version": browser.version, "dark": dark, "foreign": sorted(foreign(prefix))}
        await browser.close()
        return found


def foreign(prefix: str) -> set[str]:
    """Libraries outside of ``prefix`` in the memory of any process of the browser."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            maps = (process / "maps").read_text()
        except OSError:  # it has ended, or is another user's
            continue
        files = {line.split(maxsplit=5)[5] for line in maps.splitlines() if " /" in line}
        if any(path.endswith("chromium-headless-shell") for path in files):
            found |= {path for path in files if ".so" in path and not path.startswith(f"{prefix}/")}
    return found


print(json.dumps(asyncio.run(photographed(*sys.argv[1:]))))

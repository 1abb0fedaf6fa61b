"""Playwright for Python drives a page through the address and key given: argv is address, key, the page's."""

import json
import sys

from playwright.sync_api import sync_playwright

endpoint, key, site = sys.argv[1:]
with sync_playwright() as playwright:
    browser = playwright.chromium.connect_over_cdp(endpoint, headers={"X-Session-API-Key": key})
    context = browser.new_context()
    page = context.new_page()
    page.goto(site)
    page.fill("#name", "Ada")
    page.click("button")
    page.wait_for_selector("#greeting:not(:empty)")
    page.on("dialog", lambda dialog: dialog.accept("yes"))
    with page.expect_popup() as opened:
        page.evaluate("window.open('about:blank')")
    print(
        json.dumps(
            {
                "greeting": page.text_content("#greeting"),
                "inner": (page.frames[1].text_content("body") or "").strip(),
                "dialog": page.evaluate("prompt('sure?')"),
                "popup": opened.value.url,
                "picture": len(page.screenshot(full_page=True)),
                "version": browser.version,
            }
        )
    )
    browser.close()

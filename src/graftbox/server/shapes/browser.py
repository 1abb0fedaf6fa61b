"""The shapes of ``/v1/browser``."""

from __future__ import annotations

from graftbox.server.openapi import Media, Operation
from graftbox.server.schema import TEXT, Schema

TIMEOUT: Schema = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 600,
    "default": 30,
    "description": "Seconds.",
}
UNTIL: Schema = {
    "enum": ["commit", "domcontentloaded", "load", "networkidle"],
    "default": "load",
    "description": "How far the page must have come for the answer.",
}
URL: Schema = {**TEXT, "minLength": 1, "maxLength": 2_000_000}
NEW: Schema = {
    "title": "NewPage",
    "type": "object",
    "properties": {
        "url": {**URL, "description": "None: an empty page."},
        "wait_until": UNTIL,
        "timeout": TIMEOUT,
    },
    "additionalProperties": False,
}
GOTO: Schema = {
    "title": "Goto",
    "type": "object",
    "required": ["url"],
    "properties": {"url": URL, "wait_until": UNTIL, "timeout": TIMEOUT},
    "additionalProperties": False,
}
SCRIPT: Schema = {
    "title": "Script",
    "type": "object",
    "required": ["expression"],
    "properties": {
        "expression": {"type": "string", "description": "JavaScript; a promise is waited for."},
        "timeout": TIMEOUT,
    },
    "additionalProperties": False,
}
SCREENSHOT: dict[str, Schema] = {
    "format": {"enum": ["png", "jpeg"], "default": "png"},
    "quality": {"type": "integer", "minimum": 0, "maximum": 100, "description": "Of a jpeg."},
    "full_page": {
        "type": "boolean",
        "default": False,
        "description": "What is to be seen after scrolling too.",
    },
    "timeout": TIMEOUT,
}
PDF: dict[str, Schema] = {
    "landscape": {"type": "boolean", "default": False},
    "background": {"type": "boolean", "default": True, "description": "Print backgrounds too."},
    "scale": {"type": "number", "minimum": 0.1, "maximum": 2, "default": 1},
    "width": {"type": "number", "minimum": 1, "maximum": 200, "default": 8.27, "description": "Inches."},
    "height": {"type": "number", "minimum": 1, "maximum": 200, "default": 11.69, "description": "Inches."},
    "pages": {"type": "string", "pattern": "^[0-9, -]*$", "default": "", "description": "As `1-5, 8`."},
    "timeout": TIMEOUT,
}
READ: dict[str, Schema] = {
    "format": {"enum": ["markdown", "text", "html"], "default": "markdown"},
    "timeout": TIMEOUT,
}
PAGE: Schema = {
    "title": "Page",
    "type": "object",
    "required": ["id", "url", "title", "context"],
    "properties": {
        "id": {"type": "string"},
        "url": {"type": "string"},
        "title": {"type": "string"},
        "context": {
            "type": ["string", "null"],
            "description": "Pages of one context share cookies; each client may have contexts of its own.",
        },
    },
}
BROWSER: Schema = {
    "title": "Browser",
    "type": "object",
    "required": ["state", "reason", "product", "pid", "starts", "started", "sandboxed", "clients", "pages"],
    "properties": {
        "state": {"enum": ["stopped", "starting", "running", "unavailable"]},
        "reason": {
            "type": ["string", "null"],
            "description": "Why there is none, or how the last one ended.",
        },
        "product": {"type": ["string", "null"], "description": "As `HeadlessChrome/1.2.3.4`, once known."},
        "pid": {"type": ["integer", "null"]},
        "starts": {"type": "integer", "description": "How often it was started."},
        "started": {"type": ["number", "null"], "description": "Seconds since 1970."},
        "sandboxed": {
            "type": ["boolean", "null"],
            "description": "Whether Chromium's own sandbox is used; null: not known before the first start.",
        },
        "clients": {"type": "integer", "description": "WebSockets that speak CDP with it."},
        "pages": {"type": "array", "items": PAGE},
    },
}
VERSION: Schema = {
    "title": "CdpVersion",
    "type": "object",
    "required": ["Browser", "Protocol-Version", "webSocketDebuggerUrl"],
    "properties": {
        "Browser": {"type": "string"},
        "Protocol-Version": {"type": "string"},
        "User-Agent": {"type": "string"},
        "V8-Version": {"type": "string"},
        "webSocketDebuggerUrl": {"type": "string"},
    },
}
CONTENT: Schema = {
    "title": "PageText",
    "type": "object",
    "required": ["url", "title", "content", "truncated"],
    "properties": {
        "url": {"type": "string"},
        "title": {"type": "string"},
        "content": {"type": "string"},
        "truncated": {"type": "boolean", "description": "More than 4 MiB: only the beginning is there."},
    },
}
VALUE: Schema = {
    "title": "ScriptValue",
    "type": "object",
    "required": ["value", "error"],
    "properties": {
        "value": {"description": "As JSON; null for what JSON has no form for."},
        "error": {"type": ["string", "null"], "description": "What it threw."},
    },
}
_PATH = {"page": {"type": "string", "minLength": 1, "maxLength": 64}}
_START = (501, 503)
_ON_PAGE = (404, 502, 503, 504)
OPENAPI = {
    "show": Operation("The browser and its pages", "Does not start it.", answers={200: BROWSER}),
    "stop": Operation("End the browser", "With all its pages; the next use starts it.", answers={204: None}),
    "restart": Operation(
        "Start the browser, anew if it runs", "All its pages are gone.", answers={200: BROWSER}, errors=_START
    ),
    "version": Operation(
        "Where clients of the Chrome DevTools Protocol connect",
        "Starts the browser. Playwright takes http://…/v1/browser for connect_over_cdp. A WebSocket "
        "of the protocol is at /v1/browser/cdp; it takes the key as a header.",
        answers={200: VERSION},
        errors=_START,
    ),
    "version_too": Operation("The same, with the slash that Playwright asks with", hidden=True),
    "create": Operation(
        "Open a page",
        "Starts the browser. Where the address can't be opened, there is no new page.",
        body=NEW,
        answers={201: PAGE},
        errors=(400, 429, 501, 502, 503, 504),
    ),
    "show_page": Operation("A page", path=_PATH, answers={200: PAGE}, errors=(404,)),
    "close": Operation("Close a page", path=_PATH, answers={204: None}, errors=(404, 503, 504)),
    "goto": Operation(
        "Have a page go to an address",
        path=_PATH,
        body=GOTO,
        answers={200: PAGE},
        errors=(400, *_ON_PAGE),
    ),
    "screenshot": Operation(
        "A picture of a page",
        "At most 16384 pixels wide and high.",
        path=_PATH,
        query=SCREENSHOT,
        answers={200: (Media("image/png"), Media("image/jpeg"))},
        errors=(400, *_ON_PAGE),
    ),
    "pdf": Operation(
        "A page as PDF",
        path=_PATH,
        query=PDF,
        answers={200: Media("application/pdf")},
        errors=(400, *_ON_PAGE),
    ),
    "text": Operation(
        "What there is to read on a page", path=_PATH, query=READ, answers={200: CONTENT}, errors=_ON_PAGE
    ),
    "evaluate": Operation(
        "Run JavaScript in a page", path=_PATH, body=SCRIPT, answers={200: VALUE}, errors=_ON_PAGE
    ),
}
